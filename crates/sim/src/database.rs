//! The database as one process reaches it: calls are refused, answers are lost, the process dies or stands still
//! around them. Behind it is the real store, on SQLite in memory; between them stands a witness.

use std::sync::Arc;
use std::time::Duration;

use nexus_store::{Batch, BoxFuture, Executor, Output, Store, StoreError};

use crate::dice::Dice;
use crate::money;
use crate::plan::Fault;
use crate::process::Process;
use crate::witness;
use crate::world::{Accident, World, lag};

pub struct Database {
    world: Arc<World>,
    process: Arc<Process>,
    dice: Arc<Dice>,
    /// Calls may fail, the process does not.
    steady: bool,
}

type Answer = Result<Vec<Output>, StoreError>;

/// A store handle for one process.
pub fn store(world: &Arc<World>, process: &Arc<Process>, dice: &Arc<Dice>) -> Store {
    over(world, process, dice, false)
}

/// A store handle for a process that is never killed or frozen by a call.
pub fn steady(world: &Arc<World>, process: &Arc<Process>, dice: &Arc<Dice>) -> Store {
    over(world, process, dice, true)
}

fn over(world: &Arc<World>, process: &Arc<Process>, dice: &Arc<Dice>, steady: bool) -> Store {
    let store =
        Store::over(Arc::new(Database { world: world.clone(), process: process.clone(), dice: dice.clone(), steady }));
    #[cfg(feature = "broken")]
    let store = store.with_defect(world.defect.clone());
    store
}

impl Database {
    async fn there(&self) {
        self.process.pass().await;
        lag(&self.world, &self.dice, 40).await;
        self.process.pass().await;
    }

    /// Dies or freezes here, with these chances: around the hosting ledger more often.
    async fn stumble(&self, attempted: &str) {
        if self.steady {
            return;
        }
        let books = [money::CHARGE, money::CREDIT, money::LOOK, money::KEEP].contains(&attempted);
        if books && self.world.fault(&self.dice, Fault::MoneyCrash) {
            self.world.accident(&self.process, Accident::Kill);
        } else if books && self.world.fault(&self.dice, Fault::MoneyStall) {
            let ms = self.dice.between(6_000, 20_000);
            self.world.accident(&self.process, Accident::Freeze(ms));
        } else if self.world.fault(&self.dice, Fault::DbCrash) {
            self.world.accident(&self.process, Accident::Kill);
        } else if self.world.fault(&self.dice, Fault::DbStall) {
            let ms = self.dice.between(3_000, 20_000);
            self.world.accident(&self.process, Accident::Freeze(ms));
        }
        self.process.pass().await;
    }

    async fn write_with_faults(&self, batch: Batch) -> Answer {
        let attempted = batch.attempted();
        self.there().await;
        self.stumble(attempted).await;
        if self.world.fault(&self.dice, Fault::DbRefused) {
            return Err(StoreError::Database { attempted, message: "simulated".into() });
        }
        let answer = witness::write(&self.world, &self.process, batch).await;
        self.stumble(attempted).await;
        if self.world.fault(&self.dice, Fault::DbAnswerLost) {
            tokio::time::sleep(Duration::from_millis(self.dice.between(1, 500))).await;
            self.process.pass().await;
            return Err(StoreError::Uncertain { attempted, message: "simulated".into() });
        }
        answer
    }

    async fn read_with_faults(&self, batch: Batch) -> Answer {
        let attempted = batch.attempted();
        self.there().await;
        if self.world.fault(&self.dice, Fault::DbRefused) {
            return Err(StoreError::Database { attempted, message: "simulated".into() });
        }
        let answer = self.world.store.read(batch).await;
        self.process.pass().await;
        answer
    }
}

impl Executor for Database {
    fn write(&self, batch: Batch) -> BoxFuture<'_, Answer> {
        Box::pin(self.write_with_faults(batch))
    }

    fn read(&self, batch: Batch) -> BoxFuture<'_, Answer> {
        Box::pin(self.read_with_faults(batch))
    }
}
