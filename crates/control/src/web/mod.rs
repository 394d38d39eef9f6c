//! Pages for people. Nothing on them comes from anywhere else.

pub mod docs;
