//! The bus: messages are lost, doubled and late.

use std::sync::Arc;
use std::time::Duration;

use nexus_bus::{BoxFuture, Bus, Closed, Heard, LocalBus, Subscription, Wake};

use crate::dice::Dice;
use crate::plan::Fault;
use crate::process::{Phase, Process};
use crate::world::World;

/// The bus as one process holds it.
pub struct SimBus {
    pub world: Arc<World>,
    pub process: Arc<Process>,
    pub dice: Arc<Dice>,
}

impl Bus for SimBus {
    fn publish(&self, wake: Wake) {
        if self.process.phase() == Phase::Dead {
            return;
        }
        if self.world.fault(&self.dice, Fault::BusLost) {
            return;
        }
        if self.world.fault(&self.dice, Fault::BusDoubled) {
            self.world.bus.publish(wake);
        }
        if self.world.fault(&self.dice, Fault::BusLate) {
            let (bus, ms): (Arc<LocalBus>, u64) = (self.world.bus.clone(), self.dice.between(1, 8_000));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                bus.publish(wake);
            });
        } else {
            self.world.bus.publish(wake);
        }
    }

    fn subscribe(&self) -> Box<dyn Subscription> {
        Box::new(Ear { inner: self.world.bus.subscribe(), process: self.process.clone() })
    }
}

struct Ear {
    inner: Box<dyn Subscription>,
    process: Arc<Process>,
}

impl Subscription for Ear {
    fn recv(&mut self) -> BoxFuture<'_, Result<Heard, Closed>> {
        Box::pin(async {
            self.process.pass().await;
            self.inner.recv().await
        })
    }
}
