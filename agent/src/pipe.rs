//! Length-delimited protobuf messages on the pipes between agent and trainer child.

use std::io;
#[cfg(any(feature = "trainer", test))]
use std::io::{Read, Write};

use plateau_common::limits::MAX_PIPE_MESSAGE_BYTES;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

fn oversized(length: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a pipe message announces {length} bytes"))
}

fn malformed(error: prost::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a pipe message cannot be decoded: {error}"))
}

fn framed(message: &impl Message) -> Vec<u8> {
    let mut bytes = (message.encoded_len() as u32).to_le_bytes().to_vec();
    bytes.extend(message.encode_to_vec());
    bytes
}

/// Writes one message and flushes it.
#[cfg(any(feature = "trainer", test))]
pub fn write(pipe: &mut impl Write, message: &impl Message) -> io::Result<()> {
    pipe.write_all(&framed(message))?;
    pipe.flush()
}

/// Reads one message; `None` at the end of the pipe.
#[cfg(any(feature = "trainer", test))]
pub fn read<M: Message + Default>(pipe: &mut impl Read) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match pipe.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_PIPE_MESSAGE_BYTES {
        return Err(oversized(length));
    }
    let mut bytes = vec![0; length as usize];
    pipe.read_exact(&mut bytes)?;
    M::decode(bytes.as_slice()).map(Some).map_err(malformed)
}

/// Writes one message and flushes it, asynchronously.
pub async fn write_async(pipe: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    pipe.write_all(&framed(message)).await?;
    pipe.flush().await
}

/// Reads one message, asynchronously; `None` at the end of the pipe. Not cancel-safe: call it from a task of its own.
pub async fn read_async<M: Message + Default>(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match pipe.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_le_bytes(length);
    if length > MAX_PIPE_MESSAGE_BYTES {
        return Err(oversized(length));
    }
    let mut bytes = vec![0; length as usize];
    pipe.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map(Some).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use plateau_proto::v1::{TrainerEvent, trainer_event};

    use super::*;

    fn event(step: u64) -> TrainerEvent {
        let progress = trainer_event::Progress { step, replica_steps_per_second: 2.5 };
        TrainerEvent { body: Some(trainer_event::Body::Progress(progress)) }
    }

    #[test]
    fn messages_come_out_as_they_went_in_and_the_end_is_the_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, &event(7)).unwrap();
        write(&mut bytes, &event(8)).unwrap();
        let mut reader = bytes.as_slice();
        assert_eq!(read::<TrainerEvent>(&mut reader).unwrap(), Some(event(7)));
        assert_eq!(read::<TrainerEvent>(&mut reader).unwrap(), Some(event(8)));
        assert_eq!(read::<TrainerEvent>(&mut reader).unwrap(), None);
    }

    #[test]
    fn a_lying_length_is_refused_before_memory_is_spent() {
        let mut reader: &[u8] = &u32::MAX.to_le_bytes();
        let error = read::<TrainerEvent>(&mut reader).unwrap_err();
        assert!(error.to_string().contains("4294967295"), "{error}");
    }
}
