//! The state machines, under virtual time and with plain numbers as descriptors.

mod after_release;
mod arbiter;
mod endings;
mod farewells;
mod finish;
mod inspecting;
mod keeping;
mod lifecycle;
mod ownership;
mod pair;
mod transfer;
mod unsent;
