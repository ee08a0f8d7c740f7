//! The crate as its users see it: who is accepted, what goes over the wire, what is delivered.

mod identities;
mod interop;
mod peers;
mod pki;
mod records;
mod trust;
mod wire;
