//! The state machines, under virtual time and with plain numbers as descriptors.

mod after_release;
mod arbiter;
mod endings;
mod farewells;
mod finish;
mod inspecting;
mod keeper;
mod lifecycle;
mod lineage;
mod ownership;
mod pair;
mod reachability;
mod transfer;
mod unsent;
mod watchdog;
