//! A session with the agent: what is said at its start, and what each of the agent's messages does.

use super::{Control, Named, REDIAL, Session, WELCOME_DEADLINE};
use crate::answers::{Answer, Endpoint, Route, Through, TunnelTarget, Verdict};
use crate::control::link::Link;
use crate::failure::Flag;
use crate::log::log;
use crate::messages::{IdentityConfigs, ToWorker, WorkloadSpec};
use crate::protocol::{self, FromProxy, HeldWorkload, Hello, SetIdentity, SetTrust, SetWorkload, ToProxy};
use hbone_tls::{ClientConfig, Credentials, DefaultTimeProvider, Identity, ServerConfig, TrustStore};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use zeroize::Zeroize;

impl Control {
    /// Says hello, gives the descriptors back, and asks again whatever is held.
    pub(super) fn start_session(&mut self, dialled: io::Result<Link>) {
        // Dialled ten times a second: the end of the last session has been logged, each failure to start the next is not.
        self.redial_at = Instant::now() + REDIAL;
        let Ok(mut link) = dialled else { return };
        let workloads = self.workloads.values();
        let hello = FromProxy::Hello(Hello {
            protocol: protocol::VERSION,
            build: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            instance: self.process.instance.clone(),
            started_s: self.process.started_s,
            leaving: self.exit_at.is_some(),
            workloads: workloads.clone().map(|spec| HeldWorkload { uid: spec.uid.to_string(), generation: spec.generation }).collect(),
        });
        link.queue(&protocol::encode(&hello), Vec::new());
        for spec in workloads {
            let listeners = spec.listeners.iter().map(|(kind, _)| *kind).collect();
            let held = FromProxy::Held { uid: spec.uid.to_string(), generation: spec.generation, listeners };
            let sockets = spec.listeners.iter().map(|(_, socket)| socket.clone());
            let descriptors = std::iter::once(spec.network_namespace.clone()).chain(sockets).collect();
            link.queue(&protocol::encode(&held), descriptors);
        }
        for question in self.held.ask_again() {
            link.queue(&protocol::encode(&question), Vec::new());
        }
        self.series.start_session();
        self.session = Session { welcome_by: Some(Instant::now() + WELCOME_DEADLINE), named: Some(Named::default()) };
        self.link = Some(link);
    }

    pub(super) fn agent_says(&mut self, received: io::Result<(ToProxy, Vec<OwnedFd>)>) {
        let handled = received.map_err(|error| error.to_string()).and_then(|(message, descriptors)| self.handle(message, descriptors));
        if let Err(reason) = handled {
            self.end_session(&reason);
        }
    }

    /// Err ends the session: the agent broke the protocol.
    fn handle(&mut self, message: ToProxy, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        if self.session.welcome_by.is_some() && !matches!(message, ToProxy::Welcome(_)) {
            return Err("the first message was not welcome".into());
        }
        if !descriptors.is_empty() && !matches!(message, ToProxy::Workload(_)) {
            return Err("descriptors came with a message that has none".into());
        }
        match message {
            ToProxy::Welcome(welcome) => self.welcome(welcome)?,
            ToProxy::Synced => self.synced(),
            ToProxy::Workload(workload) => self.set_workload(workload, descriptors)?,
            ToProxy::RemoveWorkload(remove) => self.remove_workload(&remove.uid, remove.drain_s),
            ToProxy::Identity(identity) => self.set_identity(identity),
            ToProxy::ForgetIdentity(forget) => self.forget_identity(&forget.identity),
            ToProxy::Trust(trust) => self.set_trust(trust),
            ToProxy::Route(answer) => {
                let route = Answer::Route(Arc::new(self.intern_route(answer.route)));
                let effects = self.held.answered(answer.id, route)?;
                self.apply(effects);
            }
            ToProxy::Verdict(answer) => {
                let series = self.series.intern(answer.attributes);
                let (allow, holds, reason, policy) = (answer.allow, answer.holds, answer.reason, answer.policy);
                let verdict = Answer::Verdict(Arc::new(Verdict { allow, holds, reason, policy, series }));
                let effects = self.held.answered(answer.id, verdict)?;
                self.apply(effects);
            }
            ToProxy::Report(report) => {
                self.reports.start_flush(report.request);
                self.tell_all(|| ToWorker::Flush { request: report.request });
            }
            ToProxy::ListConnections(list) => {
                self.reports.start_list(list.request);
                self.tell_all(|| ToWorker::List { request: list.request });
            }
            ToProxy::Shutdown(shutdown) => self.shutdown(shutdown.drain_s),
        }
        Ok(())
    }

    fn welcome(&mut self, welcome: protocol::Welcome) -> Result<(), String> {
        if welcome.protocol != protocol::VERSION {
            return Err(format!("the agent speaks protocol {}, this proxy {}", welcome.protocol, protocol::VERSION));
        }
        self.settings = Arc::new(welcome.settings.checked()?);
        self.session.welcome_by = None;
        self.tell_all(|| ToWorker::Settings(self.settings.clone()));
        self.away_because = None;
        log!("the agent is here");
        Ok(())
    }

    /// What the agent had at `hello` has come: drain and forget the rest.
    fn synced(&mut self) {
        let Some(named) = self.session.named.take() else { return };
        let gone: Vec<Arc<str>> = self.workloads.keys().filter(|uid| !named.workloads.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove_workload(&uid, self.settings.drain_s);
        }
        let gone: Vec<Arc<str>> = self.identities.iter().filter(|identity| !named.identities.contains(*identity)).cloned().collect();
        for identity in gone {
            self.forget_identity(&identity);
        }
    }

    fn set_workload(&mut self, message: SetWorkload, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        let uid: Arc<str> = message.uid.into();
        let mut descriptors = descriptors.into_iter().map(Arc::new);
        let (network_namespace, listeners) = match descriptors.next() {
            None => {
                let held = self.workloads.get(&uid).filter(|held| held.generation == message.generation);
                let held = held.ok_or_else(|| format!("workload {uid} came without descriptors and is not held"))?;
                (held.network_namespace.clone(), held.listeners.clone())
            }
            Some(network_namespace) => {
                if descriptors.len() != message.listeners.len() {
                    return Err(format!("workload {uid} has {} listeners and {} sockets", message.listeners.len(), descriptors.len()));
                }
                (network_namespace, message.listeners.into_iter().zip(descriptors).collect())
            }
        };
        let same = self.workloads.get(&uid).filter(|held| held.generation == message.generation);
        let spec = Arc::new(WorkloadSpec {
            usage: same.map(|held| held.usage.clone()).unwrap_or_default(),
            uid: uid.clone(),
            generation: message.generation,
            identity: message.identity.into(),
            addresses: message.addresses,
            network_namespace,
            listeners,
            inbound: self.series.intern(message.inbound_attributes),
            outbound: self.series.intern(message.outbound_attributes),
            baggage: message.baggage,
            shares_network: message.shares_network,
        });
        if let Some(named) = &mut self.session.named {
            named.workloads.insert(uid.clone());
        }
        let before = self.workloads.insert(uid.clone(), spec.clone());
        if before.is_some_and(|before| before.generation != spec.generation) {
            self.forget_answers_of(&uid);
        }
        self.tell_all(|| ToWorker::Workload(spec.clone()));
        Ok(())
    }

    fn remove_workload(&mut self, uid: &str, drain_s: f64) {
        // One that is not here may still drain, and is to end sooner.
        let uid = self.workloads.remove_entry(uid).map_or_else(|| uid.into(), |(uid, _)| uid);
        self.tell_all(|| ToWorker::RemoveWorkload { uid: uid.clone(), drain_s });
        if protocol::seconds(drain_s).is_zero() {
            self.forget_answers_of(&uid);
        }
    }

    fn forget_answers_of(&mut self, uid: &str) {
        let effects = self.held.forget_workload(uid);
        self.apply(effects);
    }

    /// Credentials that do not fit are refused here; the ones before them stay in force until they expire.
    fn set_identity(&mut self, mut message: SetIdentity) {
        let name: Arc<str> = message.identity.as_str().into();
        if let Some(named) = &mut self.session.named {
            named.identities.insert(name.clone());
        }
        let configs = self.make_configs(&message);
        message.key.zeroize();
        match configs {
            Ok(configs) => {
                let configs = Arc::new(configs);
                self.identities.insert(name.clone());
                self.tell_all(|| ToWorker::Identity(name.clone(), configs.clone()));
            }
            Err(reason) => log!("credentials of {name} are refused: {reason}"),
        }
    }

    fn make_configs(&self, message: &SetIdentity) -> Result<IdentityConfigs, String> {
        let identity: Identity = message.identity.parse().map_err(|error| format!("{error}"))?;
        let credentials = Credentials::from_pem(&identity, &message.chain, &message.key).map_err(|error| error.to_string())?;
        let clock = || Arc::new(DefaultTimeProvider);
        let server = ServerConfig::new(&credentials, &self.trust, clock()).map_err(|error| error.to_string())?;
        let client = ClientConfig::new(&credentials, &self.trust, clock()).map_err(|error| error.to_string())?;
        Ok(IdentityConfigs { certificate: message.chain.clone(), server, client })
    }

    fn forget_identity(&mut self, identity: &str) {
        if let Some(identity) = self.identities.take(identity) {
            self.tell_all(|| ToWorker::ForgetIdentity(identity.clone()));
        }
    }

    /// What of it cannot be used is trusted by nobody, and what cannot be an identity needs no revocation: nobody is let in as it.
    /// The rest is in force at once, and nothing of what was before.
    fn set_trust(&mut self, message: SetTrust) {
        let revoked = message.revoked.iter().filter_map(|revocation| {
            let identity: Identity = revocation.identity.parse().ok()?;
            Some((identity, u64::try_from(revocation.issued_before_s).unwrap_or(0)))
        });
        let (store, unusable) = TrustStore::new(&message.roots, revoked);
        for error in unusable {
            log!("the agent sent what cannot be trusted: {error}");
        }
        self.trust.replace(store);
        self.tell_all(|| ToWorker::TrustChanged);
    }

    fn shutdown(&mut self, drain_s: f64) {
        log!("draining for {drain_s} s");
        let uids: Vec<Arc<str>> = self.workloads.keys().cloned().collect();
        for uid in uids {
            self.remove_workload(&uid, drain_s);
        }
        self.workloads = BTreeMap::new();
        self.exit_at = Some(Instant::now() + protocol::seconds(drain_s));
    }

    fn intern_route(&mut self, route: protocol::Route) -> Route {
        match route {
            protocol::Route::Pass(pass) => Route::Pass(self.series.intern(pass.attributes)),
            protocol::Route::Refuse(refuse) => Route::Refuse {
                flag: Flag::parse(&refuse.flag).unwrap_or(Flag::NR),
                reason: refuse.reason,
                series: self.series.intern(refuse.attributes),
            },
            protocol::Route::Forward(forward) => {
                Route::Forward(forward.endpoints.into_iter().map(|endpoint| self.intern_endpoint(endpoint)).collect())
            }
        }
    }

    fn intern_endpoint(&mut self, endpoint: protocol::Endpoint) -> Endpoint {
        let uid: Arc<str> = endpoint.uid.into();
        let through = |tunnel: protocol::TunnelTo| Through {
            target: Arc::new(TunnelTarget {
                endpoint_uid: uid.clone(),
                address: endpoint.address,
                identity: tunnel.identity.into(),
                expect: tunnel.expect.iter().filter_map(|identity| identity.parse().ok()).collect(),
            }),
            authority: tunnel.authority,
        };
        Endpoint {
            tunnel: endpoint.tunnel.map(through),
            address: endpoint.address,
            series: self.series.intern(endpoint.attributes),
            tier: endpoint.tier,
            weight: endpoint.weight,
            uid,
        }
    }
}
