//! Requests over time, one panel above the other on the same axis.

use super::canvas::{
    Anchor, BAD, Canvas, GRID, INK, MARGIN, OURS, PALE_BAD, PALE_GRID, PALE_INK, PALE_OURS, Point, WIDTH, width,
};
use super::scale::Scale;

const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - MARGIN;
const PLOT: f64 = 190.0;
/// A line of labels of marks.
const LABEL: f64 = 15.0;
const TITLE: f64 = 44.0;
const HEADING: f64 = 22.0;
const AXIS: f64 = 30.0;

/// One upgrade. All times are milliseconds, those on the axis from the trigger.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) heading: String,
    /// When each request began, and how long it took.
    pub(crate) answered: Vec<Point>,
    pub(crate) lost: Vec<Point>,
    pub(crate) marks: Vec<Mark>,
    /// While the new generation initialises.
    pub(crate) initialises: (f64, f64),
    /// While nobody accepts.
    pub(crate) nobody: (f64, f64),
}

/// Something that happens.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) at: f64,
    pub(crate) what: &'static str,
}

pub(crate) fn timeline(title: &str, span: (f64, f64), panels: &[Panel]) -> String {
    let mut canvas = Canvas::default();
    canvas.title(30.0, title);
    legend(&mut canvas, TITLE + 8.0);
    let mut top = TITLE + 24.0;
    let longest = panels.iter().flat_map(|panel| panel.answered.iter().chain(&panel.lost)).map(|(_, took)| *took);
    let latency = Scale::of(longest, PLOT, 0.0);
    for panel in panels {
        top = panel.draw(&mut canvas, Time(span), latency, top);
    }
    canvas.text(((LEFT + RIGHT) / 2.0, top), Anchor::Middle, PALE_INK, "a request's start, ms from the trigger");
    canvas.finish(top + MARGIN)
}

fn legend(canvas: &mut Canvas, y: f64) {
    let mut x = LEFT;
    let mut entry = |canvas: &mut Canvas, draw: &dyn Fn(&mut Canvas, Point), text: &str| {
        draw(canvas, (x + 5.0, y - 4.0));
        canvas.text((x + 16.0, y), Anchor::Start, INK, text);
        x += 16.0 + width(text) + 14.0;
    };
    entry(canvas, &|canvas, at| canvas.dots(&[at], OURS), "a request answered");
    entry(canvas, &|canvas, at| canvas.crosses(&[at], BAD), "refused, reset or failed");
    let swatch = |colour| move |canvas: &mut Canvas, (x, y): Point| canvas.rect((x - 5.0, y - 5.0), 10.0, 10.0, colour);
    entry(canvas, &swatch(PALE_OURS), "the new generation initialises");
    entry(canvas, &swatch(PALE_BAD), "nobody accepts");
}

/// The axis of time.
#[derive(Debug, Clone, Copy)]
struct Time((f64, f64));

impl Time {
    fn place(&self, at: f64) -> f64 {
        let (from, to) = self.0;
        LEFT + (at.clamp(from, to) - from) / (to - from) * (RIGHT - LEFT)
    }

    /// Every hundred milliseconds.
    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (from, to) = self.0;
        ((from / 100.0).ceil() as i32..=(to / 100.0).floor() as i32).map(|hundreds| f64::from(hundreds) * 100.0)
    }

    fn shows(&self, at: f64) -> bool {
        self.0.0 <= at && at <= self.0.1
    }
}

impl Mark {
    /// Where its label begins, and how wide it is.
    fn label(&self, time: Time) -> (f64, f64) {
        let place = time.place(self.at);
        if time.shows(self.at) {
            return (place, width(self.what) + 10.0);
        }
        let width = width(&self.beyond());
        (place - width, width)
    }

    /// What is said of it where it lies to the right of the picture.
    fn beyond(&self) -> String {
        format!("{} at {:.0} ms →", self.what, self.at)
    }
}

impl Panel {
    /// Draws it from `top` on, and says where it ends.
    fn draw(&self, canvas: &mut Canvas, time: Time, latency: Scale, top: f64) -> f64 {
        let labels: Vec<(f64, f64)> = self.marks.iter().map(|mark| mark.label(time)).collect();
        let rows = in_rows(&labels);
        let above = top + HEADING + LABEL * rows.iter().max().map_or(0.0, |most| *most as f64 + 1.0);
        let below = above + PLOT;
        canvas.bold((LEFT, top + HEADING - 6.0), &self.heading);

        for ((from, to), colour) in [(self.initialises, PALE_OURS), (self.nobody, PALE_BAD)] {
            canvas.rect((time.place(from), above), time.place(to) - time.place(from), PLOT, colour);
        }
        latency.between().for_each(|y| canvas.line((LEFT, above + y), (RIGHT, above + y), PALE_GRID));
        for (y, label) in latency.decades() {
            canvas.line((LEFT, above + y), (RIGHT, above + y), GRID);
            canvas.text((LEFT - 6.0, above + y + 4.0), Anchor::End, PALE_INK, &label);
        }
        for tick in time.ticks() {
            let x = time.place(tick);
            canvas.line((x, below), (x, below + 4.0), INK);
            canvas.text((x, below + 17.0), Anchor::Middle, PALE_INK, &tick.to_string());
        }
        canvas.upwards((MARGIN + 8.0, above + PLOT / 2.0), PALE_INK, "latency, ms");

        for (mark, row) in self.marks.iter().zip(rows) {
            let (x, y) = (time.place(mark.at), top + HEADING + LABEL * (row as f64 + 1.0) - 4.0);
            if time.shows(mark.at) {
                canvas.line((x, y - 9.0), (x, below), PALE_INK);
                canvas.text((x + 4.0, y), Anchor::Start, INK, mark.what);
            } else {
                canvas.text((x, y), Anchor::End, INK, &mark.beyond());
            }
        }
        let place = |points: &[Point]| -> Vec<Point> {
            let shown = points.iter().filter(|(at, _)| time.shows(*at));
            shown.map(|(at, took)| (time.place(*at), above + latency.place(*took))).collect()
        };
        canvas.dots(&place(&self.answered), OURS);
        canvas.crosses(&place(&self.lost), BAD);
        below + AXIS + 8.0
    }
}

/// A row for each label, from the top, so that neither it nor its mark's line touches another label. `labels` are where
/// each begins and how wide it is, from left to right.
fn in_rows(labels: &[(f64, f64)]) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let row = |(begins, width): &(f64, f64)| {
        // The line goes down through all rows below.
        let row = ends.iter().rposition(|end| end > begins).map_or(0, |last| last + 1);
        ends.truncate(row);
        ends.push(begins + width);
        row
    };
    labels.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_would_overlap_have_rows_of_their_own() {
        assert_eq!(in_rows(&[(0.0, 50.0), (10.0, 50.0), (60.0, 50.0), (61.0, 10.0), (62.0, 9.0)]), [0, 1, 0, 1, 2]);
    }
}
