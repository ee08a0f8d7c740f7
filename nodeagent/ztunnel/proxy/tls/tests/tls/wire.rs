//! Two ends and the bytes between them: engine to engine, and engine to a plain rustls peer that shows any certificate.

use std::sync::Arc;

use hbone_tls::{Dial, Engine, ServerConfig, State, TlsError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, Error, ServerConnection, SignatureScheme};

use crate::pki::{FixedClock, Issued};

/// Two engines, joined.
pub struct Pair {
    pub client: Engine,
    pub server: Engine,
    pub to_server: Vec<u8>,
    pub to_client: Vec<u8>,
    pub at_server: Vec<u8>,
    pub at_client: Vec<u8>,
}

impl Pair {
    pub fn new(dial: &Dial, server: &ServerConfig) -> Self {
        let mut to_server = Vec::new();
        let client = Engine::client(dial, &mut to_server).unwrap();
        let server = Engine::server(server).unwrap();
        Self { client, server, to_server, to_client: Vec::new(), at_server: Vec::new(), at_client: Vec::new() }
    }

    /// Both ends after their handshake.
    pub fn ready(dial: &Dial, server: &ServerConfig) -> Self {
        let mut pair = Self::new(dial, server);
        pair.run().unwrap();
        assert_eq!((pair.client.state(), pair.server.state()), (State::Ready, State::Ready));
        pair
    }

    /// Carries bytes until both are silent; the first error ends it, but what it says is still carried.
    pub fn run(&mut self) -> Result<(), TlsError> {
        while !(self.to_server.is_empty() && self.to_client.is_empty()) {
            let mut bytes = std::mem::take(&mut self.to_server);
            let server =
                self.server.receive(&mut bytes, &mut Vec::new(), &mut self.to_client, |plain| self.at_server.extend_from_slice(plain));
            let mut bytes = std::mem::take(&mut self.to_client);
            let client =
                self.client.receive(&mut bytes, &mut Vec::new(), &mut self.to_server, |plain| self.at_client.extend_from_slice(plain));
            server.and(client)?;
        }
        Ok(())
    }
}

/// What an engine made of a peer.
pub struct Judged {
    pub engine: Engine,
    pub result: Result<State, TlsError>,
    pub delivered: Vec<u8>,
    /// What the peer saw.
    pub peer: Result<(), Error>,
    pub connection: Connection,
}

impl Judged {
    pub fn reason(&self) -> String {
        self.result.as_ref().map_or_else(|error| error.reason.clone(), |state| format!("accepted: {state:?}"))
    }
}

/// Runs a handshake of an engine with a plain rustls peer, then lets the peer say `hello`.
pub fn judge(mut engine: Engine, mut to_peer: Vec<u8>, mut connection: Connection) -> Judged {
    let mut result = Ok(engine.state());
    let mut peer = Ok(());
    let mut delivered = Vec::new();
    loop {
        feed(&mut connection, &std::mem::take(&mut to_peer), &mut peer);
        if !connection.is_handshaking() && delivered.is_empty() && peer.is_ok() {
            std::io::Write::write_all(&mut connection.writer(), b"hello").unwrap();
        }
        let mut to_engine = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut to_engine).unwrap();
        }
        if to_engine.is_empty() {
            break;
        }
        result = engine.receive(&mut to_engine, &mut Vec::new(), &mut to_peer, |plain| delivered.extend_from_slice(plain));
        if delivered.len() > 5 {
            break;
        }
        if result.is_err() || !delivered.is_empty() {
            feed(&mut connection, &std::mem::take(&mut to_peer), &mut peer);
            break;
        }
    }
    Judged { engine, result, delivered, peer, connection }
}

fn feed(connection: &mut Connection, mut bytes: &[u8], peer: &mut Result<(), Error>) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        if let Err(error) = connection.process_new_packets() {
            *peer = Err(error);
            return;
        }
    }
}

/// A client of plain rustls that shows `chain` signed with `key`, believes every server, and is changed by `edit`.
pub fn rustls_client(shows: Option<(&[&Issued], &Issued)>, edit: impl FnOnce(&mut rustls::ClientConfig)) -> Connection {
    rustls_client_of(default_provider(), shows, edit)
}

/// As [`rustls_client`], with other ciphers or groups.
pub fn rustls_client_of(
    provider: CryptoProvider,
    shows: Option<(&[&Issued], &Issued)>,
    edit: impl FnOnce(&mut rustls::ClientConfig),
) -> Connection {
    let builder = rustls::ClientConfig::builder_with_details(Arc::new(provider), Arc::new(FixedClock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match shows {
        Some((chain, key)) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified(chain, key)))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    edit(&mut config);
    let name = ServerName::try_from("cluster.local").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap().into()
}

/// A server of plain rustls that shows `chain` signed with `key`, believes every client, and is changed by `edit`.
pub fn rustls_server(chain: &[&Issued], key: &Issued, edit: impl FnOnce(&mut rustls::ServerConfig)) -> Connection {
    let mut config = rustls::ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(FixedClock))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(Credulous))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(chain, key))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    edit(&mut config);
    ServerConnection::new(Arc::new(config)).unwrap().into()
}

fn certified(chain: &[&Issued], key: &Issued) -> CertifiedKey {
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).unwrap()).unwrap();
    CertifiedKey::new(chain.iter().map(|issued| issued.der.clone()).collect(), key)
}

/// Believes everybody, so that only the engine judges.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
