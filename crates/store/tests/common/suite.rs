//! One suite, every executor.

/// The same tests over all executors.
macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod on_threads {
            $(#[tokio::test] async fn $name() { super::$name(super::World::new(super::Kind::Thread).await).await })+
        }
        mod inline {
            $(#[tokio::test] async fn $name() { super::$name(super::World::new(super::Kind::Inline).await).await })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::World::new(super::Kind::Postgres).await).await })+
        }
    };
}
pub(crate) use suite;
