//! Both state machines, under virtual time and with plain numbers as descriptors.

mod after_release;
mod farewells;
mod inspecting;
mod ownership;
mod pair;
mod transfer;
