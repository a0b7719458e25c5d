//! Component that is no plugin: a command.

fn main() {}
