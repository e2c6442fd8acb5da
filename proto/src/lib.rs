//! The wire of Plateau: generated types of `plateau.v1`, and their conversion to and from domain types.
//!
//! Everything that arrives is validated here, once: absent fields, unspecified or unknown enum values and malformed ids
//! are [`WireError`]s naming the field. Nothing beyond this crate looks at a raw message and wonders. [`connection`] is the
//! clients' side of the transport: addresses, TLS, tokens; [`protocol`] the versions.

/// Generated messages, clients and servers.
#[allow(missing_docs, clippy::all)] // generated; documented in the .proto files
pub mod v1 {
    tonic::include_proto!("plateau.v1");
}

pub mod connection;
pub mod convert;
pub mod protocol;

pub use convert::WireError;
pub use protocol::PROTOCOL;

/// The compiled descriptors, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/plateau.bin"));
