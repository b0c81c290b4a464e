//! A logarithmic axis.

/// Whole decades of values, and where on the picture they are. Backwards where `to` is less than `from`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    least: i32,
    greatest: i32,
    from: f64,
    to: f64,
}

impl Scale {
    /// Decades that have room for all of `values`, from the place `from` to the place `to`.
    pub(super) fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let positive = values.filter(|value| *value > 0.0);
        let (least, greatest) =
            positive.fold((f64::MAX, f64::MIN), |(least, greatest), value| (least.min(value), greatest.max(value)));
        if least > greatest {
            return Scale { least: 0, greatest: 1, from, to };
        }
        let (least, greatest) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
        Scale { least, greatest: greatest.max(least + 1), from, to }
    }

    /// Where a value is; one that is too small is at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let least = f64::from(self.least);
        let share = (value.log10().max(least) - least) / f64::from(self.greatest - self.least);
        self.from + share * (self.to - self.from)
    }

    /// The decades' places and labels.
    pub(super) fn decades(&self) -> impl Iterator<Item = (f64, String)> + use<> {
        let scale = *self;
        (scale.least..=scale.greatest).map(move |decade| {
            let value = 10_f64.powi(decade);
            (scale.place(value), grouped(value))
        })
    }

    /// The places of twice to nine times each decade.
    pub(super) fn between(&self) -> impl Iterator<Item = f64> + use<> {
        let scale = *self;
        let times = move |decade| (2..10).map(move |times| scale.place(f64::from(times) * 10_f64.powi(decade)));
        (scale.least..scale.greatest).flat_map(times)
    }
}

/// A power of ten.
fn grouped(value: f64) -> String {
    let digits = value.to_string();
    if value < 1_000.0 {
        return digits;
    }
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_whole_decades() {
        let scale = Scale::of([0.3, 20.0].into_iter(), 0.0, 300.0);
        let decades: Vec<_> = scale.decades().map(|(place, label)| (place.round(), label)).collect();
        let expected = [(0.0, "0.1"), (100.0, "1"), (200.0, "10"), (300.0, "100")];
        assert_eq!(decades, expected.map(|(place, label)| (place, label.to_owned())));
        assert_eq!(scale.place(0.0), 0.0);
        assert_eq!(scale.between().count(), 24);
    }

    #[test]
    fn an_axis_without_a_range_has_a_decade_all_the_same() {
        for values in [vec![], vec![10.0], vec![0.0]] {
            assert_eq!(Scale::of(values.into_iter(), 0.0, 1.0).decades().count(), 2);
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([100.0, 1_000.0, 100_000.0].map(grouped), ["100", "1,000", "100,000"]);
    }
}
