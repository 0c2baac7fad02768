//! Lines that break and registries that are busy: everything arrives, and little is sent twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rbuild_image::{Digest, Memory};
use rbuild_registry::{Client, ClientOptions, CopyOptions, Retry, RetryPolicy, copy};
use rbuild_test_registry::Method;

use crate::support::{Act, Demand, Fault, Options, Registry, Unreliable, client, noise, quick};

const LAYERS: usize = 29;
const ROUNDS: u64 = 50;

/// A client that does not wait long and does not give up early: a third of all requests fail.
fn stubborn() -> Client {
    let retry = RetryPolicy { attempts: 30, budget: Duration::from_secs(60), ..quick() };
    Client::new(ClientOptions { retry, ..ClientOptions::default() }).unwrap()
}

/// Thirty blobs, the config among them: 29 layers of about 400 kB.
fn layers() -> Vec<Bytes> {
    (0..LAYERS).map(|number| noise(400_000 + 31 * number)).collect()
}

fn tagged(name: &rbuild_image::Reference) -> CopyOptions {
    CopyOptions { tags: vec![name.clone()], ..CopyOptions::default() }
}

#[tokio::test]
async fn fifty_pushes_and_pulls_over_a_bad_line() {
    let layers = layers();
    let size: usize = layers.iter().map(Bytes::len).sum();
    let origin = Registry::start(Demand::Nothing).await;
    origin.put_image("team/app", "1", &layers);
    let from = origin.name("team/app:1");
    let image = Memory::new();
    copy(&client().remote(&from), &image, &from, &tagged(&from)).await.unwrap();
    let (mut sent, mut fetched) = (0, 0);
    for seed in 0..ROUNDS {
        let unreliable = Some(Unreliable { seed, resets: 30, refusals: 5 });
        let registry = Registry::start(Options { unreliable, ..Options::default() }).await;
        let to = registry.name("team/copy:1");
        copy(&image, &stubborn().remote(&to), &from, &tagged(&to)).await.unwrap();
        sent += registry.traffic().received;
        let before = registry.traffic().sent;
        let pulled = Memory::new();
        copy(&stubborn().remote(&to), &pulled, &to, &tagged(&to)).await.unwrap();
        fetched += registry.traffic().sent - before;
        for layer in &layers {
            assert_eq!(registry.blob("team/copy", Digest::of(layer)).as_ref(), Some(layer), "{seed}");
            assert_eq!(pulled.get(&Digest::of(layer)).as_ref(), Some(layer), "{seed}");
        }
    }
    let all = size as u64 * ROUNDS;
    println!("an image of {size} bytes: {} % sent, {} % fetched", sent * 100 / all, fetched * 100 / all);
    assert!(sent * 10 <= all * 12, "{sent} bytes sent for {all}");
    assert!(fetched * 10 <= all * 12, "{fetched} bytes fetched for {all}");
}

#[tokio::test]
async fn tokens_of_one_second_outlast_a_slow_push() {
    // Two seconds of sending, with tokens of one second. `tokens_of_one_second_and_a_long_push` below is the whole thing.
    slow_push(8, 1 << 20, 4 << 20).await;
}

#[tokio::test]
#[ignore = "ten seconds of sending 200 MB at 20 MB/s"]
async fn tokens_of_one_second_and_a_long_push() {
    slow_push(10, 20_000_000, 20_000_000).await;
}

async fn slow_push(layers: usize, size: usize, bandwidth: u64) {
    let demand = Demand::Bearer { realm: None, account: None, expires_in: Some(1) };
    let options = Options { demand, bandwidth: Some(bandwidth), ..Options::default() };
    let registry = Registry::start(options).await;
    let origin = Registry::start(Demand::Nothing).await;
    let layers: Vec<Bytes> = (0..layers).map(|number| noise(size + number)).collect();
    origin.put_image("team/app", "1", &layers);
    let (from, to) = (origin.name("team/app:1"), registry.name("team/copy:1"));
    let client = client();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    assert!(registry.manifest("team/copy", "1").is_some());
    assert!(registry.count(Method::GET, "/token") > 1, "a token was enough, nothing was tested");
}

#[tokio::test]
async fn a_token_that_dies_in_the_middle_of_an_upload() {
    let demand = Demand::Bearer { realm: None, account: None, expires_in: None };
    let registry = Registry::start(Options { max_body: Some(1 << 20), demand, ..Options::default() }).await;
    let challenge = format!(r#"Bearer realm="{}",service="test""#, registry.url("/token"));
    let refused = Act::Answer(401, vec![("www-authenticate", challenge)]);
    registry.fault(Fault::on("PATCH", "/uploads/").after(2).act(refused));
    let origin = Registry::start(Demand::Nothing).await;
    let layer = noise(5 << 20);
    origin.put_image("team/app", "1", std::slice::from_ref(&layer));
    let (from, to) = (origin.name("team/app:1"), registry.name("team/copy:1"));
    let client = client();
    copy(&client.remote(&from), &client.remote(&to), &from, &tagged(&to)).await.unwrap();
    assert_eq!(registry.blob("team/copy", Digest::of(&layer)), Some(layer));
}

#[tokio::test]
async fn who_waits_is_told_why() {
    let registry = Registry::start(Demand::Nothing).await;
    registry.put_image("team/app", "1", &[]);
    registry.fault(Fault::on("GET", "/manifests/").act(Act::Answer(429, vec![("retry-after", "0".into())])));
    registry.fault(Fault::on("GET", "/manifests/"));
    let heard: Arc<Mutex<Vec<Retry>>> = Arc::default();
    let ears = Arc::clone(&heard);
    let client = client().on_retry(move |retry| ears.lock().unwrap().push(retry.clone()));
    let name = registry.name("team/app:1");
    copy(&client.remote(&name), &Memory::new(), &name, &tagged(&name)).await.unwrap();
    let heard = heard.lock().unwrap();
    let tries: Vec<_> = heard.iter().map(|retry| retry.tries).collect();
    assert_eq!(tries, [1, 2]);
    assert!(heard[0].failure.contains("/v2/team/app/manifests/1: 429"), "{heard:?}");
    assert!(heard[1].failure.contains("no answer: "), "{heard:?}");
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_given_up() {
    let registry = Registry::start(Demand::Nothing).await;
    registry.put_image("team/app", "1", &[]);
    registry.fault(Fault::on("GET", "/manifests/").act(Act::Silence));
    let patience = Duration::from_millis(200);
    let retries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retries);
    let client = Client::new(ClientOptions { retry: quick(), patience, ..ClientOptions::default() }).unwrap();
    let client = client.on_retry(move |_| _ = count.fetch_add(1, Ordering::Relaxed));
    let name = registry.name("team/app:1");
    copy(&client.remote(&name), &Memory::new(), &name, &tagged(&name)).await.unwrap();
    assert!(retries.load(Ordering::Relaxed) >= 1);
}
