//! What a picture is drawn with.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

pub(super) const WIDTH: f64 = 860.0;
pub(super) const MARGIN: f64 = 16.0;

pub(super) const GROUND: &str = "#ffffff";
pub(super) const INK: &str = "#1f2328";
pub(super) const PALE_INK: &str = "#59636e";
pub(super) const GRID: &str = "#d1d9e0";
pub(super) const PALE_GRID: &str = "#eef1f4";
pub(super) const OURS: &str = "#0969da";
pub(super) const OTHERS: &str = "#a8b3bf";
pub(super) const BAD: &str = "#cf222e";
pub(super) const PALE_BAD: &str = "#ffebe9";
pub(super) const PALE_OURS: &str = "#ddf4ff";

/// A point, to the right and down.
pub(super) type Point = (f64, f64);

#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

impl Canvas {
    pub(super) fn title(&mut self, y: f64, text: &str) {
        let text = escape(text);
        self.add(format_args!("<text x=\"{MARGIN}\" y=\"{y:.1}\" font-size=\"16\" font-weight=\"600\">{text}</text>"));
    }

    pub(super) fn bold(&mut self, (x, y): Point, text: &str) {
        let text = escape(text);
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"600\">{text}</text>"));
    }

    pub(super) fn text(&mut self, (x, y): Point, anchor: Anchor, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{text}</text>"
        ));
    }

    /// In the middle of an axis that goes up.
    pub(super) fn upwards(&mut self, (x, y): Point, colour: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" fill=\"{colour}\">{text}</text>"
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): Point, (x2, y2): Point, colour: &str) {
        self.add(format_args!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"{colour}\"/>"));
    }

    pub(super) fn rect(&mut self, (x, y): Point, width: f64, height: f64, colour: &str) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        ));
    }

    pub(super) fn dots(&mut self, points: &[Point], colour: &str) {
        // A line without a length and with round ends: far shorter than a circle.
        let path = thinned(points, 1.5).fold(String::new(), |path, (x, y)| path + &format!("M{x:.1} {y:.1}h0"));
        self.add(format_args!(
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2.2\" stroke-linecap=\"round\"/>"
        ));
    }

    pub(super) fn crosses(&mut self, points: &[Point], colour: &str) {
        let cross = |(x, y): Point| format!("M{:.1} {:.1}l5 5m0 -5l-5 5", x - 2.5, y - 2.5);
        let path = thinned(points, 3.0).map(cross).collect::<String>();
        self.add(format_args!("<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.2\"/>"));
    }

    fn add(&mut self, element: impl Display) {
        writeln!(self.body, "{element}").expect("a string takes everything");
    }

    pub(super) fn finish(self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" \
             font-size=\"12\" fill=\"{INK}\">\n\
             <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{GROUND}\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// The first point of each square of this size: what is left out is covered by what is not.
fn thinned(points: &[Point], size: f64) -> impl Iterator<Item = Point> {
    let mut taken = BTreeSet::new();
    let square = move |(x, y): &Point| ((x / size).floor() as i64, (y / size).floor() as i64);
    points.iter().copied().filter(move |point| taken.insert(square(point)))
}

/// How wide a text is, about: fonts differ.
pub(super) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * 6.6
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_thinned_and_an_outlier_stays() {
        let mut points = vec![(10.0, 10.0); 1_000];
        points.push((10.0, 90.0));
        assert_eq!(thinned(&points, 2.0).collect::<Vec<_>>(), [(10.0, 10.0), (10.0, 90.0)]);
    }

    #[test]
    fn a_text_is_no_markup() {
        let mut canvas = Canvas::default();
        canvas.title(0.0, "a < b & c");
        assert!(canvas.finish(1.0).contains("a &lt; b &amp; c"));
    }
}
