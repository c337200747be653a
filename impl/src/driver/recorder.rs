//! The flight record of a server's Raft machine: what it was told and what it did, from its start on, so that the run can be
//! replayed step by step ([`spec::trace`]).

use std::io::Write;

use spec::{
    codec,
    raft::Node,
    trace::{OpeningOf, StepOf},
};

/// Writes a record: one frame for the opening, one for each step, before any of the step's effects happens.
pub struct Recorder {
    file: Option<Box<dyn Write + Send>>,
    frame: Vec<u8>,
}

impl Recorder {
    /// Records to `file`. What cannot be written ends the record, not the server.
    pub fn new(file: Box<dyn Write + Send>) -> Self {
        Self { file: Some(file), frame: Vec::new() }
    }

    /// How the run began.
    pub(super) fn opening(&mut self, opening: &OpeningOf<Node>) {
        self.frame.clear();
        codec::frame(opening, &mut self.frame);
        self.write();
    }

    /// What happened next.
    pub(super) fn step(&mut self, step: &StepOf<Node>) {
        self.frame.clear();
        codec::frame(step, &mut self.frame);
        self.write();
    }

    fn write(&mut self) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(&self.frame) {
            tracing::warn!(%error, "the flight record ends: it can't be written");
            self.file = None;
        }
    }
}
