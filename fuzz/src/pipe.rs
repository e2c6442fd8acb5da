//! Frames on the pipes between agent and trainer, in both directions.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use plateau_agent::pipe;
use plateau_proto::v1::{TrainerCommand, TrainerEvent};
use prost::Message;

/// The bytes of a pipe; the first one chooses the direction.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((direction, rest)) if direction % 2 == 0 => read_all::<TrainerCommand>(rest),
        Some((_, rest)) => read_all::<TrainerEvent>(rest),
        None => {}
    }
}

fn read_all<M: Message + Default>(data: &[u8]) {
    let (mut blocking, mut asynchronous) = (data, data);
    loop {
        let read = pipe::read::<M>(&mut blocking);
        // A slice is always ready, so the future is done at its first poll.
        let polled =
            pin!(pipe::read_async::<M>(&mut asynchronous)).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(read_async) = polled else { panic!("a slice was not ready") };
        match (read, read_async) {
            (Ok(Some(message)), Ok(Some(same))) => {
                let bytes = message.encode_to_vec();
                assert_eq!(bytes, same.encode_to_vec());
                let mut frame = Vec::new();
                assert!(pipe::write(&mut frame, &message).is_ok());
                let again = pipe::read::<M>(&mut frame.as_slice());
                assert!(again.is_ok_and(|again| again.is_some_and(|again| again.encode_to_vec() == bytes)));
            }
            (Ok(None), Ok(None)) => return,
            (Err(first), Err(second)) => return assert_eq!(first.kind(), second.kind()),
            _ => panic!("the two readers disagree"),
        }
    }
}
