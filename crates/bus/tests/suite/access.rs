//! Who may connect, and over what: against the real server's own checks.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nexus_bus::{Bus, NatsConfig};
use nexus_testkit::nats::NatsServer;
use nkeys::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
};
use tempfile::TempDir;

use crate::rig::{config, connected, eventually, flows, lagged, open};

fn file(dir: &Path, name: &str, text: impl AsRef<str>) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text.as_ref()).unwrap();
    path
}

async fn works(config: NatsConfig) {
    let bus = open(config);
    connected(&*bus).await;
    flows(&*bus, &mut bus.subscribe()).await;
    assert_eq!(bus.health().problem, None);
}

/// It keeps trying, and says why it fails.
async fn is_refused(config: NatsConfig, why: &str) {
    let bus = open(config);
    bus.publish(nexus_bus::Wake::Reconcile);
    eventually("a reason", || bus.health().problem.is_some()).await;
    let problem = bus.health().problem.unwrap();
    assert!(problem.contains(why), "not {why}: {problem}");
    assert!(!bus.health().connected);
    assert_eq!(bus.health().published, 0);
}

#[tokio::test]
async fn user_and_password() {
    let server = NatsServer::start_with(|_| "authorization { user: fleet, password: \"sesame-4711\" }".to_owned());
    let password = file(server.dir(), "password", "sesame-4711\n");
    let right = NatsConfig { user: Some("fleet".to_owned()), password_file: Some(password), ..config(&server) };
    works(right.clone()).await;
    is_refused(config(&server), "authorization violation").await;
    is_refused(NatsConfig { user: Some("other".to_owned()), ..right }, "authorization violation").await;
}

#[tokio::test]
async fn a_changed_password_is_read_again() {
    let server = NatsServer::start_with(|_| "authorization { user: fleet, password: \"new\" }".to_owned());
    let password = file(server.dir(), "password", "old\n");
    let config =
        NatsConfig { user: Some("fleet".to_owned()), password_file: Some(password.clone()), ..config(&server) };
    let bus = open(config);
    let mut listener = bus.subscribe();
    eventually("refused", || bus.health().problem.is_some_and(|why| why.contains("authorization violation"))).await;
    fs::remove_file(&password).unwrap();
    eventually("named", || bus.health().problem.is_some_and(|why| why.contains("password_file: cannot read"))).await;
    fs::write(&password, "new\n").unwrap();
    connected(&*bus).await;
    lagged(&mut listener).await;
}

#[tokio::test]
async fn token() {
    let server = NatsServer::start_with(|_| "authorization { token: \"t0ken\" }".to_owned());
    let (right, wrong) = (file(server.dir(), "right", "t0ken"), file(server.dir(), "wrong", "t1ken"));
    works(NatsConfig { token_file: Some(right), ..config(&server) }).await;
    is_refused(NatsConfig { token_file: Some(wrong), ..config(&server) }, "authorization violation").await;
}

/// A JWT as NATS has them: signed by an NKey (its documentation, "Decentralized JWT authentication").
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &str) -> String {
    let claims = format!(
        r#"{{"jti":"1","iat":1700000000,"iss":"{}","sub":"{}","name":"test","nats":{nats}}}"#,
        issuer.public_key(),
        subject.public_key()
    );
    let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn creds(user: &KeyPair, jwt: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

#[tokio::test]
async fn credentials_file() {
    let [operator, account, user] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user()];
    let operator_jwt = jwt(&operator, &operator, r#"{"type":"operator","version":2}"#);
    let limits = r#"{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}"#;
    let account_jwt = jwt(&operator, &account, &format!(r#"{{"type":"account","version":2,"limits":{limits}}}"#));
    let server = NatsServer::start_with(|_| {
        let key = account.public_key();
        format!("operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {key}: {account_jwt} }}\n")
    });
    let claims = r#"{"type":"user","version":2,"subs":-1,"data":-1,"payload":-1,"pub":{},"sub":{}}"#;
    let right = file(server.dir(), "right.creds", creds(&user, &jwt(&account, &user, claims)));
    works(NatsConfig { credentials_file: Some(right), ..config(&server) }).await;
    // Signed by an account that the operator does not know.
    let forged = creds(&user, &jwt(&KeyPair::new_account(), &user, claims));
    let forged = file(server.dir(), "forged.creds", forged);
    is_refused(NatsConfig { credentials_file: Some(forged), ..config(&server) }, "authorization violation").await;
}

#[tokio::test]
async fn missing_permissions_are_named_and_stop_nothing() {
    let server = NatsServer::start_with(|_| {
        let permissions = "{ publish: [\"nexus.echo.>\"], subscribe: [\"nexus.wake.agent\"] }";
        format!("authorization {{ users: [ {{ user: u, password: p, permissions: {permissions} }} ] }}")
    });
    let password = file(server.dir(), "password", "p");
    let bus = open(NatsConfig { user: Some("u".to_owned()), password_file: Some(password), ..config(&server) });
    let mut listener = bus.subscribe();
    bus.publish(nexus_bus::Wake::Reconcile);
    lagged(&mut listener).await;
    let problem = bus.health().problem.unwrap();
    assert!(problem.contains("Permissions Violation"), "{problem}");
}

/// A certificate authority for tests, and what it signs.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        file(dir.path(), "ca.pem", issuer.pem());
        Self { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes `name.pem` and `name.key`.
    fn sign(&self, name: &str, hosts: &[&str], usage: ExtendedKeyUsagePurpose) {
        let mut params =
            CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.extended_key_usages = vec![usage];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        file(self.dir.path(), &format!("{name}.pem"), certificate.pem());
        file(self.dir.path(), &format!("{name}.key"), key.serialize_pem());
    }

    /// A server that speaks TLS as one of `hosts`.
    fn server(&self, hosts: &[&str], more: &str) -> NatsServer {
        self.sign("server", hosts, ExtendedKeyUsagePurpose::ServerAuth);
        let [ca, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|name| self.path(name));
        NatsServer::start_with(|_| {
            format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, timeout: 5, {more} }}")
        })
    }

    fn trusted(&self, server: &NatsServer) -> NatsConfig {
        NatsConfig { tls_required: Some(true), tls_ca_file: Some(self.path("ca.pem")), ..config(server) }
    }
}

#[tokio::test]
async fn tls_with_a_known_authority() {
    let authority = Authority::new("ours");
    let server = authority.server(&["127.0.0.1"], "");
    works(authority.trusted(&server)).await;
    let by_scheme = NatsConfig { urls: vec![server.url().replace("nats:", "tls:")], ..authority.trusted(&server) };
    works(NatsConfig { tls_required: None, ..by_scheme }).await;
    let stranger = Authority::new("theirs");
    is_refused(stranger.trusted(&server), "invalid peer certificate: UnknownIssuer").await;
}

#[tokio::test]
async fn tls_for_another_name_is_refused() {
    let authority = Authority::new("ours");
    let server = authority.server(&["nats.example"], "");
    is_refused(authority.trusted(&server), "certificate not valid for name").await;
}

/// The server's greeting is in clear: whoever stands between could say that no TLS is needed.
#[tokio::test]
async fn required_tls_is_not_talked_away() {
    let authority = Authority::new("ours");
    let server = NatsServer::start_with(|_| "authorization { user: u, password: p }".to_owned());
    let password = file(server.dir(), "password", "p");
    let config = NatsConfig { user: Some("u".to_owned()), password_file: Some(password), ..authority.trusted(&server) };
    works(NatsConfig { tls_required: Some(false), ..config.clone() }).await;
    is_refused(config, "cannot connect").await;
}

#[tokio::test]
async fn a_server_that_verifies_its_clients() {
    let authority = Authority::new("ours");
    let server = authority.server(&["127.0.0.1"], "verify: true");
    authority.sign("client", &["worker"], ExtendedKeyUsagePurpose::ClientAuth);
    let (certificate, key) = (Some(authority.path("client.pem")), Some(authority.path("client.key")));
    works(NatsConfig { tls_cert_file: certificate, tls_key_file: key, ..authority.trusted(&server) }).await;
    is_refused(authority.trusted(&server), "cannot connect").await;
}
