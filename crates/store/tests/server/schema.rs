//! Who changes the schema, and who looks whether it is there.

use nexus_store::{PostgresConfig, Store, StoreError};
use nexus_testkit::postgres::shared;

use crate::common::config;

async fn refused(config: PostgresConfig) -> StoreError {
    match Store::open_postgres(config).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_migrate_at_once() {
    let database = shared().database();
    let migrations = (0..6).map(|_| tokio::spawn(Store::migrate_postgres(config(&database))));
    for migration in migrations.collect::<Vec<_>>() {
        migration.await.unwrap().unwrap();
    }
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM schema_version"), "1");
    let served = PostgresConfig { migrate: false, ..config(&database) };
    Store::open_postgres(served).await.unwrap();
}

#[tokio::test]
async fn another_schema_is_refused_by_name_and_left_alone() {
    let database = shared().database();
    let served = PostgresConfig { migrate: false, ..config(&database) };
    let error = refused(served.clone()).await;
    assert!(matches!(error, StoreError::OlderSchema { found: 0, .. }), "{error}");
    assert!(error.to_string().contains("run `nexus migrate`"), "{error}");
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    Store::migrate_postgres(served.clone()).await.unwrap();
    shared().sql(&database, "UPDATE schema_version SET version = version + 1");
    for config in [served.clone(), PostgresConfig { migrate: true, ..served.clone() }] {
        let error = refused(config).await;
        assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
        assert!(error.to_string().contains("use the version that wrote it"), "{error}");
    }
    let error = Store::migrate_postgres(served).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { .. }), "{error}");
}
