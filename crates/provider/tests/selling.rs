//! A provider, a relay and customers in one process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Customer, FlakyWallet, Relay, Seller, Workbench, texts};
use nexus_core::Msat;
use nexus_nostr::event;
use nexus_nostr::handler::read_offer;
use nexus_nostr::job::{Status, UpdateBody};
use nexus_nostr::kinds;
use nexus_provider::{BackendError, DemoBackend, Encryption, Limits, Payment, Price};
use nexus_seal::Signer;

const FREE: Price = Price::PerRequest { msat: Msat::ZERO };

struct Market {
    relay: Relay,
    wallet: FlakyWallet,
    _dir: tempfile::TempDir,
    seller: Seller,
}

impl Market {
    async fn open(backend: Arc<dyn nexus_provider::Backend>) -> Self {
        let (relay, dir) = (Relay::start().await, tempfile::tempdir().unwrap());
        let wallet = FlakyWallet::default();
        let seller = Seller::new(&relay, dir.path(), Arc::new(wallet.clone()), backend);
        Self { relay, wallet, _dir: dir, seller }
    }

    fn customer(&self, seed: u8) -> Customer {
        Customer::new(seed, &self.relay, self.seller.npub())
    }

    /// What the provider said of a job, by kind.
    fn said(&self, request: &nostr::event::Event, kind: u16) -> usize {
        let id = request.id.to_hex();
        let about = |event: &nostr::event::Event| event::values(event, "e").any(|e| e == id);
        self.relay.events().iter().filter(|event| event.kind.as_u16() == kind && about(event)).count()
    }

    /// Waits for a word in the list of jobs.
    async fn listed(&self, word: &str) {
        let path = self.seller.config.data_dir.join("jobs.jsonl");
        let listed = async {
            while !std::fs::read_to_string(&path).is_ok_and(|list| list.contains(&format!("\"{word}\""))) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), listed).await.expect(word);
    }

    fn pay_all(&self) {
        self.wallet.hashes().into_iter().for_each(|hash| self.wallet.settle(hash));
    }
}

fn echo(prompt: &str, _: usize) -> Result<String, BackendError> {
    Ok(format!("echo: {prompt}"))
}

#[tokio::test]
async fn an_encrypted_job_is_paid_and_answered_and_nothing_leaks() {
    let market = Market::open(Workbench::new(|_, _| Ok("a very private answer".into()))).await;
    let running = market.seller.start();
    let customer = market.customer(9);
    let request = customer.sealed(&Customer::job("a very private question", Some(Msat::sats(10)))).await;
    let mut bought = customer.send(request).await;
    let (amount, bolt11) = bought.invoice().await;
    assert_eq!(amount, Msat::sats(10));
    assert!(bolt11.starts_with("lnbcrt1"));
    assert!(bought.silent(300).await);
    market.pay_all();
    let (before, result, event) = bought.result().await;
    assert_eq!(texts(&before, &Status::Processing).len(), 1);
    assert_eq!((result.content.as_str(), result.bolt11), ("a very private answer", None));
    assert_eq!(event::first(&event, "p").unwrap(), customer.signer.public_key().to_hex());
    assert!(!format!("{:?}", market.relay.events()).contains("private"));
    let list = std::fs::read_to_string(market.seller.config.data_dir.join("jobs.jsonl")).unwrap();
    assert!(!list.contains("private"));
    running.stop().await;
}

#[tokio::test]
async fn a_clear_job_and_a_nip04_job_are_answered_in_kind() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.price = FREE;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut clear = customer.send(customer.clear(&Customer::job("one", None), Some(&customer.provider))).await;
    let (_, result, event) = clear.result().await;
    assert_eq!(result.content, "echo: one");
    assert_eq!(event::first(&event, "request"), Some(event::to_json(&clear.request).as_str()));
    let mut old = customer.send(customer.sealed_nip04(&Customer::job("two", None)).await).await;
    let (_, result, event) = old.result().await;
    assert_eq!(result.content, "echo: two");
    assert!(!event.content.contains("two") && event::rows(&event, "encrypted").next().is_some());
    running.stop().await;
}

#[tokio::test]
async fn the_form_of_requests_is_the_sellers_choice() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.encryption = Encryption::Unsupported;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut sealed = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    assert_eq!(sealed.error().await, "this provider reads requests in clear only");
    running.stop().await;

    market.seller.config.encryption = Encryption::Required;
    let running = market.seller.start();
    let mut clear = customer.send(customer.clear(&Customer::job("y", None), Some(&customer.provider))).await;
    assert_eq!(clear.error().await, "this provider takes encrypted requests only (NIP-44)");
    assert!(sealed.silent(300).await, "a refusal is not repeated after a restart");
    running.stop().await;
}

#[tokio::test]
async fn a_low_bid_is_told_the_price() {
    let market = Market::open(Workbench::new(echo)).await;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", Some(Msat::new(1)))).await).await;
    assert_eq!(bought.error().await, "bid too low: this job costs 10000 msat");
    running.stop().await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_invoice_and_the_same_result() {
    let bench = Workbench::new(echo);
    let market = Market::open(bench.clone()).await;
    let running = market.seller.start();
    let customer = market.customer(9);
    let request = customer.sealed(&Customer::job("x", None)).await;
    let mut bought = customer.send(request.clone()).await;
    let first = bought.invoice().await;
    // A second provider process on the same list sees the repetition; this one's subscription has it already.
    running.kill().await;
    let running = market.seller.start();
    customer.publish(&request).await;
    let second = customer.hear(request.clone()).invoice().await;
    assert_eq!(first, second);
    assert_eq!(market.wallet.hashes().len(), 1);
    market.pay_all();
    bought.result().await;
    running.kill().await;
    let running = market.seller.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    customer.publish(&request).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((bench.asked(), market.said(&request, kinds::JOB_TEXT_RESULT)), (1, 1));
    assert_eq!(market.said(&request, kinds::JOB_FEEDBACK), 2, "payment-required and processing");
    running.stop().await;
}

#[tokio::test]
async fn a_job_paid_while_the_provider_was_down_is_done_after_the_restart() {
    let bench = Workbench::new(echo);
    let market = Market::open(bench.clone()).await;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    bought.invoice().await;
    running.kill().await;
    market.pay_all();
    let running = market.seller.start();
    assert_eq!(bought.result().await.1.content, "echo: x");
    assert_eq!(bench.asked(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_job_killed_in_the_middle_of_the_work_is_done_again_and_delivered_once() {
    let bench = Workbench::new(echo);
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.price = FREE;
    bench.gate.forget_permits(1_000);
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    while bench.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.kill().await;
    bench.gate.add_permits(10);
    let running = market.seller.start();
    assert_eq!(bought.result().await.1.content, "echo: x");
    assert_eq!((bench.asked(), market.said(&bought.request, kinds::JOB_TEXT_RESULT)), (2, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_result_that_no_relay_took_is_delivered_later_with_the_same_id() {
    let bench = Workbench::new(echo);
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.price = FREE;
    bench.gate.forget_permits(1_000);
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    while bench.asked() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    market.relay.refuse(true);
    bench.gate.add_permits(10);
    market.listed("delivered").await;
    let signed = std::fs::read_to_string(market.seller.config.data_dir.join("jobs.jsonl")).unwrap();
    running.kill().await;
    market.relay.refuse(false);
    let running = market.seller.start();
    let (_, result, event) = bought.result().await;
    assert_eq!((result.content.as_str(), bench.asked()), ("echo: x", 1));
    assert!(signed.contains(&event.id.to_hex()));
    running.stop().await;
}

#[tokio::test]
async fn requests_published_while_the_provider_was_down_are_taken_up() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.price = FREE;
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("early", None)).await).await;
    let running = market.seller.start();
    assert_eq!(bought.result().await.1.content, "echo: early");
    running.stop().await;
}

#[tokio::test]
async fn paid_after_the_result_carries_the_invoice() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.payment = Payment::After;
    market.seller.config.price = Price::Per1kTokens { msat: Msat::new(700) };
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    let (_, result, _) = bought.result().await;
    // The backend counted 1,500 tokens: two started thousands.
    assert_eq!((result.content.as_str(), result.amount), ("echo: x", Some(Msat::new(1_400))));
    assert!(result.bolt11.unwrap().starts_with("lnbcrt1"));
    running.stop().await;
}

#[tokio::test]
async fn who_does_not_pay_for_a_result_gets_no_other() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.payment = Payment::After;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    bought.result().await;
    market.listed("published").await;
    market.wallet.cancel_all();
    market.listed("unpaid").await;
    let mut again = customer.send(customer.sealed(&Customer::job("y", None)).await).await;
    assert_eq!(again.error().await, "results that you received are not paid yet");
    let other = market.customer(10);
    other.send(other.sealed(&Customer::job("z", None)).await).await.result().await;
    running.stop().await;
}

#[tokio::test]
async fn an_invoice_that_expires_ends_its_job_and_frees_its_place() {
    let bench = Workbench::new(echo);
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.limits = Limits { per_customer: 1, ..Limits::default() };
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut first = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    first.invoice().await;
    let mut second = customer.send(customer.sealed(&Customer::job("y", None)).await).await;
    assert_eq!(second.error().await, "too many of your jobs are open; wait for one to end");
    market.wallet.cancel_all();
    market.listed("expired").await;
    // The list is read before it is on disk, and only then is the place free.
    let free = async {
        for n in 0.. {
            let job = Customer::job(&format!("z{n}"), None);
            let mut third = customer.send(customer.sealed(&job).await).await;
            match third.next().await.0 {
                UpdateBody::Feedback(feedback) if feedback.status == Status::PaymentRequired => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), free).await.expect("a free place");
    assert_eq!(bench.asked(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_stream_is_published_in_pieces_that_add_up() {
    let mut market = Market::open(Workbench::new(|_, _| Ok("one two three four five slowly".into()))).await;
    market.seller.config.price = FREE;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    let (before, result, _) = bought.result().await;
    let pieces = texts(&before, &Status::Partial);
    assert!(pieces.len() >= 2, "{pieces:?}");
    assert!(result.content.starts_with(&pieces.concat()), "{pieces:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_failing_model_is_tried_again_and_then_told() {
    let bench = Workbench::new(|prompt, before| match (prompt, before) {
        ("never", _) => Err(BackendError::Refused("HTTP 400".into())),
        (_, 0) => Err(BackendError::Unavailable("HTTP 503".into())),
        _ => Ok("at last".into()),
    });
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.price = FREE;
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("sometimes", None)).await).await;
    assert_eq!(bought.result().await.1.content, "at last");
    let mut bought = customer.send(customer.sealed(&Customer::job("never", None)).await).await;
    bought.next().await;
    assert_eq!(bought.error().await, "the model server refused the request: HTTP 400");
    running.stop().await;
}

#[tokio::test]
async fn a_job_has_its_time() {
    let bench = Workbench::new(echo);
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.price = FREE;
    market.seller.config.limits = Limits { job_timeout_ms: 300, ..Limits::default() };
    bench.gate.forget_permits(1_000);
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    bought.next().await;
    assert_eq!(bought.error().await, "the model server is unavailable: it took too long");
    running.stop().await;
}

#[tokio::test]
async fn the_queue_is_bounded_and_drains() {
    let bench = Workbench::new(echo);
    let mut market = Market::open(bench.clone()).await;
    market.seller.config.price = FREE;
    market.seller.config.limits = Limits { concurrency: 1, queue: 1, ..Limits::default() };
    bench.gate.forget_permits(1_000);
    let running = market.seller.start();
    let customer = market.customer(9);
    let mut waiting = Vec::new();
    for n in 0..2 {
        waiting.push(customer.send(customer.sealed(&Customer::job(&format!("job {n}"), None)).await).await);
        let taken = || std::fs::read_to_string(market.seller.config.data_dir.join("jobs.jsonl"));
        while taken().map_or(0, |list| list.lines().count()) < n + 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let mut third = customer.send(customer.sealed(&Customer::job("too many", None)).await).await;
    assert_eq!(third.error().await, "busy; try again later");
    assert_eq!(bench.asked(), 1, "one at a time");
    bench.gate.add_permits(10);
    for job in &mut waiting {
        job.result().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_wallet_out_of_reach_delays_and_loses_nothing() {
    let market = Market::open(Workbench::new(echo)).await;
    let running = market.seller.start();
    let customer = market.customer(9);
    market.wallet.moods.unreachable.store(true, Ordering::SeqCst);
    let mut refused = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    assert_eq!(refused.error().await, "no invoice can be made right now; try again later");
    market.wallet.moods.unreachable.store(false, Ordering::SeqCst);
    let mut bought = customer.send(customer.sealed(&Customer::job("y", None)).await).await;
    bought.invoice().await;
    market.wallet.moods.unreachable.store(true, Ordering::SeqCst);
    market.pay_all();
    assert!(bought.silent(1_500).await);
    market.wallet.moods.unreachable.store(false, Ordering::SeqCst);
    assert_eq!(bought.result().await.1.content, "echo: y");
    running.stop().await;
}

#[tokio::test]
async fn open_requests_are_taken_only_where_configured() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.price = FREE;
    let customer = market.customer(9);
    let running = market.seller.start();
    let mut open = customer.send(customer.clear(&Customer::job("anyone", None), None)).await;
    let stranger = common::TestSigner::new(77).public_key();
    let mut other = customer.send(customer.clear(&Customer::job("them", None), Some(&stranger))).await;
    assert!(open.silent(400).await);
    running.stop().await;
    market.seller.config.open_requests = true;
    let running = market.seller.start();
    assert_eq!(open.result().await.1.content, "echo: anyone");
    assert!(other.silent(300).await);
    running.stop().await;
}

#[tokio::test]
async fn the_market_hears_of_it() {
    let market = Market::open(Arc::new(DemoBackend)).await;
    let running = market.seller.start();
    let mut events = Vec::new();
    for _ in 0..200 {
        events = market.relay.events();
        if events.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let kinds: Vec<u16> = events.iter().map(|event| event.kind.as_u16()).collect();
    assert_eq!(kinds, [kinds::HANDLER, kinds::METADATA, kinds::RELAY_LIST]);
    let offer = read_offer(&events[0]).unwrap();
    assert_eq!(offer.provider, market.seller.npub());
    assert_eq!(offer.price, Some(nexus_nostr::handler::Price::PerRequest(Msat::sats(10))));
    assert_eq!((offer.network.as_deref(), offer.encryption), (Some("regtest"), Some(true)));
    assert_eq!(offer.models, ["nexus-demo-planner"]);
    running.stop().await;
}

#[tokio::test]
async fn a_provider_whose_list_is_taken_does_not_start() {
    let market = Market::open(Workbench::new(echo)).await;
    let running = market.seller.start();
    while !market.seller.config.data_dir.join("jobs.jsonl").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = market.seller.start().ended().await;
    assert!(second.unwrap_err().to_string().contains("another provider"));
    running.stop().await;
}

#[tokio::test]
async fn nobody_is_answered_twice_and_own_requests_are_ignored() {
    let mut market = Market::open(Workbench::new(echo)).await;
    market.seller.config.price = FREE;
    let running = market.seller.start();
    let own = Customer { signer: market.seller.signer.clone(), ..market.customer(9) };
    let mut loops = own.send(own.clear(&Customer::job("me", None), Some(&own.provider))).await;
    assert!(loops.silent(400).await);
    let customer = market.customer(9);
    let mut bought = customer.send(customer.sealed(&Customer::job("x", None)).await).await;
    let (before, ..) = bought.result().await;
    assert!(before.iter().all(|update| matches!(update, UpdateBody::Feedback(_))));
    assert_eq!(market.said(&bought.request, kinds::JOB_TEXT_RESULT), 1);
    running.stop().await;
}
