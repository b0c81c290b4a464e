//! Frames as text, and lines out of chunks.

mod frames;
mod manifest;
mod reading;
mod shape;
