//! Pictures as SVG, on a ground of their own, so that they can be read in a light and in a dark page.

mod bars;
mod canvas;
mod scale;
mod timeline;

pub(crate) use bars::{Bar, bars};
pub(crate) use timeline::{Mark, Panel, timeline};
