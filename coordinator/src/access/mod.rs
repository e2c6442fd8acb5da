//! Who may call what: roles, tokens, the keys folder, and the guard in front of every gRPC method.
//!
//! Owns the folder that `plateau keys` makes (a certificate authority, the server's certificate, the list of tokens) and
//! the decision whether a call is let through. A coordinator without keys listens on loopback only and asks nobody; one
//! with keys asks everybody, over TLS, on whatever address.
//!
//! Deliberately absent: users and passwords; token lifetimes (no decision of Plateau hangs on a clock: tokens are revoked,
//! they do not expire); the client's side, which is `plateau_proto::connection`.

mod guard;
mod keys;
mod live;
mod methods;
mod role;
mod tokens;

pub use guard::Guard;
pub use keys::{CA_FILE, KeysError, KeysFolder};
pub use live::{Grant, Live, follow};
pub use methods::{Need, need};
pub use role::Role;
pub use tokens::{Record, Token, TokenError, TokenFile};
