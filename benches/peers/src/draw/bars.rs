//! Horizontal bars in groups, on a logarithmic axis.

use super::canvas::{Anchor, Canvas, GRID, INK, MARGIN, OTHERS, OURS, PALE_GRID, PALE_INK, WIDTH, width};
use super::scale::Scale;
use crate::contestant::Contestant;
use crate::figures::{Figures, millis};

const BAR: f64 = 14.0;
const ROW: f64 = 21.0;
const GROUP: f64 = 30.0;
/// Beyond the longest bar, for its label.
const LABEL: f64 = 56.0;
const TITLE: f64 = 46.0;
const AXIS: f64 = 52.0;

/// One contestant's bar: up to the median, with a line from the least to the greatest.
#[derive(Debug)]
pub(crate) struct Bar {
    name: &'static str,
    ours: bool,
    figures: Figures,
}

impl Bar {
    pub(crate) fn new(contestant: &Contestant, figures: &Figures) -> Bar {
        Bar { name: contestant.name, ours: contestant.is_ours(), figures: figures.clone() }
    }

    /// What no contestant does, for comparison.
    pub(crate) fn beside(name: &'static str, figures: &Figures) -> Bar {
        Bar { name, ours: false, figures: figures.clone() }
    }
}

/// Bars of times in milliseconds; `what` is what the axis says of them.
pub(crate) fn bars(title: &str, what: &str, groups: &[(String, Vec<Bar>)]) -> String {
    let all = || groups.iter().flat_map(|(_, bars)| bars);
    let left = MARGIN + all().map(|bar| width(bar.name)).fold(0.0, f64::max) + 8.0;
    let times = all().filter_map(|bar| bar.figures.range()).flatten().map(in_millis);
    let scale = Scale::of(times, left, WIDTH - MARGIN - LABEL);
    let rows: f64 = groups.iter().map(|(_, bars)| GROUP + ROW * bars.len() as f64).sum();
    let bottom = TITLE + rows;

    let mut canvas = Canvas::default();
    canvas.title(30.0, title);
    let mut top = TITLE;
    for (name, bars) in groups {
        canvas.bold((MARGIN, top + GROUP - 9.0), name);
        top += GROUP;
        let below = top + ROW * bars.len() as f64;
        scale.between().for_each(|x| canvas.line((x, top), (x, below), PALE_GRID));
        scale.decades().for_each(|(x, _)| canvas.line((x, top), (x, below), GRID));
        for bar in bars {
            bar.draw(&mut canvas, scale, (left, top));
            top += ROW;
        }
    }
    scale.decades().for_each(|(x, label)| canvas.text((x, bottom + 16.0), Anchor::Middle, PALE_INK, &label));
    let middle = (left + WIDTH - MARGIN - LABEL) / 2.0;
    canvas.text(
        (middle, bottom + 36.0),
        Anchor::Middle,
        PALE_INK,
        &format!("{what}, ms, logarithmic: median, least and greatest"),
    );
    canvas.finish(bottom + AXIS)
}

impl Bar {
    fn draw(&self, canvas: &mut Canvas, scale: Scale, (left, top): (f64, f64)) {
        let (middle, base) = (top + ROW / 2.0, top + ROW / 2.0 + 4.0);
        canvas.text((left - 8.0, base), Anchor::End, INK, self.name);
        let Some(range) = self.figures.range() else {
            return canvas.text((left + 6.0, base), Anchor::Start, PALE_INK, &self.figures.to_string());
        };
        let [least, median, greatest] = range.map(|time| scale.place(in_millis(time)));
        let colour = if self.ours { OURS } else { OTHERS };
        canvas.rect((left, middle - BAR / 2.0), median - left, BAR, colour);
        canvas.line((least, middle), (greatest, middle), INK);
        for end in [least, greatest] {
            canvas.line((end, middle - 4.0), (end, middle + 4.0), INK);
        }
        canvas.text((greatest.max(median) + 6.0, base), Anchor::Start, INK, &millis(range[1]));
    }
}

fn in_millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
