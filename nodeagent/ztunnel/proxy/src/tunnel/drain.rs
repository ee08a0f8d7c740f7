//! Draining a tunnel: no new streams, and its end when those that are open have ended.

use super::Tunnel;
use std::rc::Rc;
use std::time::Duration;

/// How long a peer may take to acknowledge that we drain: far more than a round trip. Until then it may open streams.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

impl Tunnel {
    /// Takes no new streams from when the peer knows, or had time to; ends when those that are open have.
    pub fn drain(self: &Rc<Self>) {
        self.core.borrow_mut().codec.drain();
        self.say_so();
        let tunnel = Rc::downgrade(self);
        self.worker.spawn(async move {
            tokio::time::sleep(ACKNOWLEDGED_WITHIN).await;
            if let Some(tunnel) = tunnel.upgrade() {
                tunnel.core.borrow_mut().codec.finish_drain();
                tunnel.say_so();
            }
        });
    }

    fn say_so(&self) {
        self.flush();
        self.wake.raise();
    }
}
