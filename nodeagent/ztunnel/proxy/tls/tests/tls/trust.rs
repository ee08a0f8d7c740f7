//! Trust that changes, and credentials that must fit together.

use std::sync::Arc;

use hbone_tls::{Class, Credentials, CredentialsError, Identity, PeerRefused, ServerConfig, TrustStore};
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose};

use crate::pki::{DAY_S, FixedClock, Issued, Mesh, NOW_S, at, authority, id, store, svid, uri};
use crate::wire::Pair;

#[test]
fn a_root_that_is_removed_ends_old_tunnels_and_refuses_new_ones_at_once() {
    let mesh = Mesh::new();
    let (dial, server) = (mesh.dial("a", &["b"]), mesh.server("b"));
    let open = Pair::ready(&dial, &server);
    let mut handshaking = Pair::new(&dial, &server);
    let (client, at_server) = (open.client.peer().unwrap(), open.server.peer().unwrap());
    assert_eq!((client.identity(), at_server.identity()), (&id("b"), &id("a")));
    assert_eq!(mesh.trust.still_valid(client, NOW_S), Ok(()));
    assert_eq!(at_server.trust_generation(), mesh.trust.generation());

    let generation = mesh.trust.replace(store(&Issued::root(authority("another root"))));

    assert!(generation > client.trust_generation());
    for peer in [client, at_server] {
        assert!(matches!(mesh.trust.still_valid(peer, NOW_S), Err(PeerRefused::Chain(..))));
    }
    assert_eq!(Pair::new(&dial, &server).run().unwrap_err().class, Class::PeerCertificate);
    assert_eq!(handshaking.run().unwrap_err().class, Class::PeerCertificate);
}

#[test]
fn a_root_that_is_added_keeps_the_old_tunnels() {
    let mesh = Mesh::new();
    let open = Pair::ready(&mesh.dial("a", &["b"]), &mesh.server("b"));
    let both = [mesh.root.pem.clone(), Issued::root(authority("next root")).pem].concat();
    mesh.trust.replace(TrustStore::new([("cluster.local", both)], []).0);
    assert_eq!(mesh.trust.still_valid(open.client.peer().unwrap(), NOW_S), Ok(()));
}

#[test]
fn what_was_issued_before_a_revocation_is_refused_and_what_was_issued_later_is_not() {
    let mesh = Mesh::new();
    let (dial, server) = (mesh.dial("a", &["b"]), mesh.server("b"));
    let open = Pair::ready(&dial, &server);
    let issued_s = NOW_S - 10 * 365 * DAY_S;
    let revoke = |before_s| TrustStore::new([("cluster.local", &mesh.root.pem)], [(id("a"), before_s), (id("a"), 7)]).0;

    mesh.trust.replace(revoke(issued_s));
    assert_eq!(mesh.trust.still_valid(open.server.peer().unwrap(), NOW_S), Ok(()));

    mesh.trust.replace(revoke(issued_s + 1));
    assert_eq!(mesh.trust.still_valid(open.server.peer().unwrap(), NOW_S), Err(PeerRefused::Revoked(id("a"))));
    assert_eq!(mesh.trust.still_valid(open.client.peer().unwrap(), NOW_S), Ok(()));
    let error = Pair::new(&dial, &server).run().unwrap_err();
    assert_eq!(error.class, Class::PeerCertificate);
    assert!(error.reason.contains("revoked"), "{error}");

    let mut params = svid(&uri("a"));
    params.not_before = at(issued_s + 1);
    let renewed = mesh.root.issue(params);
    let renewed = Credentials::from_pem(&id("a"), &renewed.pem, &renewed.key_pem).unwrap();
    let dial = hbone_tls::ClientConfig::new(&renewed, &mesh.trust, Arc::new(FixedClock)).unwrap().expecting([id("b")].into());
    Pair::ready(&dial, &server);
}

#[test]
fn a_tunnel_does_not_outlive_its_leaf() {
    let mesh = Mesh::new();
    let open = Pair::ready(&mesh.dial("a", &["b"]), &mesh.server("b"));
    let peer = open.server.peer().unwrap();
    assert_eq!(mesh.trust.still_valid(peer, peer.not_after_s()), Ok(()));
    assert!(mesh.trust.still_valid(peer, peer.not_after_s() + 1).is_err());
}

#[test]
fn without_roots_nobody_is_trusted() {
    let mesh = Mesh::new();
    mesh.trust.replace(TrustStore::new([("", ""); 0], []).0);
    let error = Pair::new(&mesh.dial("a", &["b"]), &mesh.server("b")).run().unwrap_err();
    assert!(error.reason.contains("no roots"), "{error}");
}

#[test]
fn roots_that_cannot_be_used_are_trusted_by_nobody_and_named_with_their_place() {
    let mesh = Mesh::new();
    let leaf = mesh.root.issue(svid(&uri("a")));
    let mut no_signing = authority("root");
    no_signing.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let good_then_leaf = [mesh.root.pem.clone(), leaf.pem].concat();
    for (domain, pem, reason) in [
        ("cluster.local", "garbage", "no certificate"),
        ("cluster.local", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 0"),
        ("cluster.local", "-----BEGIN CERTIFICATE-----\n", "certificate 0"),
        ("cluster.local", &good_then_leaf, "certificate 1"),
        ("cluster.local", &Issued::root(no_signing).pem, "certificate 0"),
        ("Cluster.local", &mesh.root.pem, "no name of a trust domain"),
    ] {
        let (store, unusable) = TrustStore::new([(domain, pem)], []);
        let [error] = unusable.as_slice() else { panic!("{unusable:?}, expected {reason}") };
        assert!(error.to_string().contains(reason), "{error}, expected {reason}");
        let open = Pair::ready(&mesh.dial("a", &["b"]), &mesh.server("b"));
        let judged = hbone_tls::Trust::new(store).still_valid(open.client.peer().unwrap(), NOW_S);
        assert_eq!(judged.is_ok(), pem == good_then_leaf, "what can be used is: {reason}");
    }
    assert!(TrustStore::new([("cluster.local", "")], []).1.is_empty(), "no roots are none");
}

#[test]
fn credentials_that_do_not_fit_are_refused() {
    let mesh = Mesh::new();
    let leaf = mesh.root.issue(svid(&uri("a")));
    let other = mesh.root.issue(svid(&uri("a")));
    let mut params = svid(&uri("a"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signing = mesh.root.issue(params);
    let refused = |who: &Identity, chain: &str, key: &str| Credentials::from_pem(who, chain, key).unwrap_err();

    assert!(Credentials::from_pem(&id("a"), &leaf.pem, &leaf.key_pem).is_ok());
    assert_eq!(refused(&id("b"), &leaf.pem, &leaf.key_pem), CredentialsError::OtherIdentity(id("a")));
    assert_eq!(refused(&id("a"), &leaf.pem, &other.key_pem), CredentialsError::KeyMismatch);
    assert_eq!(refused(&id("a"), &leaf.pem, "garbage"), CredentialsError::Key);
    assert_eq!(refused(&id("a"), &signing.pem, &signing.key_pem), CredentialsError::Leaf(PeerRefused::LeafIsAuthority));
    assert!(matches!(refused(&id("a"), "", &leaf.key_pem), CredentialsError::Chain(_)));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(refused(&id("a"), &leaf.pem, &p384.serialize_pem()), CredentialsError::Key);
}

#[test]
fn roots_at_the_end_of_a_chain_are_not_sent() {
    let mesh = Mesh::new();
    let intermediate = mesh.root.issue(authority("intermediate"));
    let leaf = intermediate.issue(svid(&uri("a")));
    let chain = [&*leaf.pem, &*intermediate.pem, &*mesh.root.pem].concat();
    let credentials = Credentials::from_pem(&id("a"), &chain, &leaf.key_pem).unwrap();
    let server = ServerConfig::new(&credentials, &mesh.trust, Arc::new(FixedClock)).unwrap();
    let pair = Pair::ready(&mesh.dial("b", &["a"]), &server);
    let shown = format!("{:?}", pair.client.peer().unwrap());
    assert!(shown.contains("certificates: 2"), "{shown}");
}

#[test]
fn no_text_shows_the_key() {
    let mesh = Mesh::new();
    let leaf = mesh.root.issue(svid(&uri("a")));
    let credentials = Credentials::from_pem(&id("a"), &leaf.pem, &leaf.key_pem).unwrap();
    let server = ServerConfig::new(&credentials, &mesh.trust, Arc::new(FixedClock)).unwrap();
    let broken = leaf.key_pem.replace("END PRIVATE KEY", "END SOMETHING");
    let error = Credentials::from_pem(&id("a"), &leaf.pem, &broken).unwrap_err();
    let texts = format!("{credentials:?} {server:?} {error:?} {error}");
    for line in leaf.key_pem.lines().filter(|line| !line.starts_with('-')) {
        assert!(!texts.contains(line));
    }
    assert!(texts.contains("sa/a"));
}
