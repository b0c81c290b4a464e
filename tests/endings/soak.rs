use crate::Rows;

pub(crate) fn rows(_rows: &mut Rows) {}
