//! From chunks of bytes, some with descriptors, to lines with theirs. Pure, and generic over the descriptor.

use std::collections::VecDeque;

use super::{MAX_LINE, WireError, trim};

/// A line, without its newline, and the descriptors that ride on its first byte.
pub type Line<'a, F> = (&'a [u8], Vec<F>);

/// Puts lines together, and each line's descriptors with it.
///
/// A stream keeps the order of descriptors and bytes but not the borders of messages: a receive may bring
/// the end of one frame, whole frames, and the beginning of a frame that carries descriptors; the kernel
/// always ends it there. So descriptors belong to the last frame that begins in the chunk they came with.
#[derive(Debug)]
pub struct FrameReader<F> {
    buffer: Vec<u8>,
    /// Where the next line begins in the buffer.
    start: usize,
    /// How far the buffer was searched for a newline.
    searched: usize,
    /// Descriptors, with the place in the buffer at which their frame begins.
    descriptors: VecDeque<(usize, Vec<F>)>,
    /// What ended reading for good.
    broken: Option<WireError>,
}

impl<F> Default for FrameReader<F> {
    fn default() -> Self {
        FrameReader { buffer: Vec::new(), start: 0, searched: 0, descriptors: VecDeque::new(), broken: None }
    }
}

impl<F> FrameReader<F> {
    /// Takes in what one receive brought.
    pub fn push(&mut self, bytes: &[u8], descriptors: Vec<F>) {
        let Some(chunk) = self.append(bytes) else { return };
        if descriptors.is_empty() {
            return;
        }
        match self.last_frame_beginning_in(chunk) {
            Some(frame) => self.descriptors.push_back((frame, descriptors)),
            None => self.spoil(self.frame_under_way(chunk), WireError::StrayDescriptors),
        }
    }

    /// Takes in what a receive brought that lost descriptors. The lines before the frame that they belong to
    /// still come; instead of that frame comes the error.
    // M24
    pub fn push_spoilt(&mut self, bytes: &[u8], error: WireError) {
        let Some(chunk) = self.append(bytes) else { return };
        let frame = self.last_frame_beginning_in(chunk);
        self.spoil(frame.unwrap_or_else(|| self.frame_under_way(chunk)), error);
    }

    /// Nothing more can be read, for this reason; lines that are whole still come.
    pub fn end(&mut self, error: WireError) {
        self.broken.get_or_insert(error);
    }

    /// The next line, without its newline, and its descriptors. `None`: more bytes are needed.
    ///
    /// # Errors
    ///
    /// A [`WireError`] after which there are no more lines.
    // M11, M13
    pub fn next_line(&mut self) -> Option<Result<Line<'_, F>, WireError>> {
        loop {
            let Some(found) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return self.unfinished().map(Err);
            };
            let (start, end) = (self.start, self.searched + found);
            if end - start >= MAX_LINE {
                return Some(Err(self.stop(WireError::TooLong)));
            }
            self.start = end + 1;
            self.searched = self.start;
            let descriptors = self.take_descriptors(start);
            let line = trim(&self.buffer[start..end]);
            if !line.is_empty() {
                // Borrowed again: the compiler does not see that the loop ends here.
                return Some(Ok((trim(&self.buffer[start..end]), descriptors)));
            }
            if !descriptors.is_empty() {
                return Some(Err(self.stop(WireError::StrayDescriptors)));
            }
        }
    }

    /// How many bytes of an unfinished line there are.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Returns where the chunk begins in the buffer; nothing once reading has ended.
    fn append(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.broken.is_some() {
            return None;
        }
        self.compact();
        let chunk = self.buffer.len();
        self.buffer.extend_from_slice(bytes);
        Some(chunk)
    }

    /// Ends reading before the frame that begins here: it is not what its sender sent.
    fn spoil(&mut self, frame: usize, error: WireError) {
        self.buffer.truncate(frame);
        self.searched = self.searched.min(frame);
        self.broken = Some(error);
    }

    // M11
    fn unfinished(&mut self) -> Option<WireError> {
        if self.broken.is_none() && self.pending() >= MAX_LINE {
            self.broken = Some(WireError::TooLong);
        }
        self.broken.clone().map(|error| self.stop(error))
    }

    /// Ends reading: what is left is not to be understood any more.
    // M12
    fn stop(&mut self, error: WireError) -> WireError {
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
        self.descriptors.clear();
        self.broken = Some(error.clone());
        error
    }

    fn take_descriptors(&mut self, frame: usize) -> Vec<F> {
        match self.descriptors.front() {
            Some((place, _)) if *place == frame => self.descriptors.pop_front().map_or_else(Vec::new, |(_, fds)| fds),
            _ => Vec::new(),
        }
    }

    // M23
    fn last_frame_beginning_in(&self, chunk: usize) -> Option<usize> {
        // A newline at the very end begins a frame in the next chunk, not in this one.
        let last = self.buffer.len().checked_sub(1)?;
        let from = chunk.saturating_sub(1);
        if let Some(newline) = memchr::memrchr(b'\n', self.buffer.get(from..last)?) {
            return Some(from + newline + 1);
        }
        (chunk == 0).then_some(0)
    }

    /// The frame that had begun before this chunk and was not whole.
    fn frame_under_way(&self, chunk: usize) -> usize {
        memchr::memrchr(b'\n', &self.buffer[..chunk]).map_or(0, |newline| newline + 1)
    }

    /// Drops the lines that were read.
    fn compact(&mut self) {
        self.buffer.drain(..self.start);
        for (place, _) in &mut self.descriptors {
            *place -= self.start;
        }
        self.searched -= self.start;
        self.start = 0;
    }
}
