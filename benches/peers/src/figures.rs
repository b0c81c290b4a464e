//! Several measurements of one thing.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Measured times, and what went wrong where one was not to be had.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    times: Vec<Duration>,
    pub(crate) trouble: Option<String>,
}

impl Figures {
    pub(crate) fn add(&mut self, measured: Result<Duration, String>) {
        match measured {
            Ok(time) => {
                let at = self.times.partition_point(|other| *other <= time);
                self.times.insert(at, time);
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        self.times.get(self.times.len() / 2).copied()
    }

    /// The least, the median and the greatest.
    pub(crate) fn range(&self) -> Option<[Duration; 3]> {
        Some([*self.times.first()?, self.median()?, *self.times.last()?])
    }

    /// How many times as long as the other one, by the medians.
    pub(crate) fn ratio(&self, other: &Figures) -> Option<f64> {
        Some(self.median()?.as_secs_f64() / other.median()?.as_secs_f64())
    }
}

/// `median (min to max)` in milliseconds.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some([min, median, max]) = self.range() else {
            return f.write_str(self.trouble.as_deref().unwrap_or("–"));
        };
        write!(f, "{} ({} to {})", millis(median), millis(min), millis(max))
    }
}

/// How long requests took.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Latency {
        Latency(Histogram::new(3).expect("three digits"))
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.0.record(took.as_nanos() as u64).expect("it grows");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn at(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("–");
        }
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|quantile| millis(self.at(quantile)));
        write!(f, "{p50} / {p99} / {p999} / {max}")
    }
}

/// The one in the middle.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut values = values.to_vec();
    values.sort_by(|value, other| value.partial_cmp(other).expect("no NaN is measured"));
    values.get(values.len() / 2).copied()
}

/// Three significant digits, at most three decimals.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1_000.0;
    let decimals = if millis < 1.0 {
        3
    } else if millis < 10.0 {
        2
    } else if millis < 100.0 {
        1
    } else {
        0
    };
    format!("{millis:.decimals$}")
}
