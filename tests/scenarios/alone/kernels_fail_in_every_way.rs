//! Kernels that are killed, frozen, slow or refuse, and apps that break off in the middle of an
//! answer: each is seen as what it is, others are not affected, and who comes back is used again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use patchbay_common::id::CircuitId;
use patchbay_tests::eventually::eventually;
use patchbay_tests::load::{Load, Target};
use patchbay_tests::ports::Ports;
use patchbay_tests::program::{Program, Signal};
use patchbay_tests::raw::{Connection, OneShotApp};
use patchbay_tests::rig::{Parts, Rig};
use serde_json::json;

/// Longest until an ejection or a return takes effect with the check below, on a busy machine.
const SEEN: Duration = Duration::from_secs(8);

/// A kernel in a process of its own.
struct Kernel {
    program: Program,
    address: SocketAddr,
    client: reqwest::Client,
    _ports: Ports,
}

impl Kernel {
    async fn start(rig: &Rig, name: &str) -> Result<Self> {
        let ports = Ports::reserve(1)?;
        let folder = rig.folder.path().join(name);
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("hello"), "hello from the kernel")?;
        let arguments = ["-m", "http.server", "--bind", "127.0.0.1"];
        let mut arguments: Vec<String> = arguments.iter().map(|word| (*word).into()).collect();
        arguments.extend(["--directory".into(), folder.display().to_string()]);
        arguments.push(ports.first().to_string());
        let log = rig.folder.path().join(format!("{name}.log"));
        let mut kernel = Self {
            program: Program::new(name, "python3".into(), arguments, log),
            address: ([127, 0, 0, 1], ports.first()).into(),
            client: patchbay_tests::browser::client()?,
            _ports: ports,
        };
        kernel.again().await?;
        Ok(kernel)
    }

    async fn again(&mut self) -> Result<()> {
        let url = format!("http://{}/hello", self.address);
        self.program.start_and_answer(&self.client, &url).await
    }
}

/// Two kernels behind one endpoint, which is checked five times a second.
struct Pair {
    rig: Rig,
    kernels: [Kernel; 2],
    circuit: CircuitId,
    target: Target,
}

impl Pair {
    async fn start() -> Result<Self> {
        let rig = Rig::start(Parts::embedded()).await?;
        let kernels = [
            Kernel::start(&rig, "kernel-1").await?,
            Kernel::start(&rig, "kernel-2").await?,
        ];
        let check = json!({"enable": true, "interval": 0.2, "path": "/hello", "max_retries": 2,
            "max_wait_time": 0.5, "expected_status_code": 200, "initial_delay": 0.0});
        let addresses = kernels.each_ref().map(|kernel| kernel.address);
        let (_, circuit) = rig.opener.endpoint(&addresses, check).await?;
        let port = rig.opener.circuit(circuit).await?["port"].as_u64();
        let target = Target {
            url: format!("http://127.0.0.1:{}/hello", port.context("no port")?),
            cookie: String::new(),
            expected: "hello from the kernel",
        };
        let pair = Self {
            rig,
            kernels,
            circuit,
            target,
        };
        pair.become_healthy(2).await?;
        Ok(pair)
    }

    /// Waits until so many routes are healthy; answers how long it took.
    async fn become_healthy(&self, count: usize) -> Result<Duration> {
        let begun = Instant::now();
        let path = format!("/health/circuits/{}", self.circuit);
        eventually(&format!("{count} routes are healthy"), SEEN, async || {
            let told = self.rig.opener.read(&path).await?;
            let routes = told["routes"].as_array().into_iter().flatten();
            let healthy = routes.filter(|route| route["status"] == "healthy").count();
            ensure!(healthy == count, "{told}");
            Ok(begun.elapsed())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back() -> Result<()> {
    let mut pair = Pair::start().await?;
    let load = Load::start(vec![pair.target.clone()], 50)?;
    load.answers(50).await?;
    pair.kernels[0].program.kill().await?;
    let out = pair.become_healthy(1).await?;
    load.answers(50).await?;
    pair.kernels[0].again().await?;
    let back = pair.become_healthy(2).await?;
    load.answers(50).await?;
    let tally = load.finish().await?;
    crate::report_figure(format_args!(
        "a kernel killed: out after {out:.1?}, back after {back:.1?}; {tally}"
    ));
    // All of them could be asked of the other kernel.
    tally.ensure_faultless()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_and_thawed() -> Result<()> {
    let pair = Pair::start().await?;
    let other = pair.rig.open("other").await?;
    let beside = Load::start(vec![other.target()], 50)?;
    let load = Load::start(vec![pair.target.clone()], 50)?;
    load.answers(50).await?;
    pair.kernels[0].program.signal(Signal::Stop).await?;
    let out = pair.become_healthy(1).await?;
    // From now on nobody is sent there.
    let now = Load::start(vec![pair.target.clone()], 50)?;
    now.answers(50).await?;
    let now = now.finish().await?;
    now.ensure_faultless()?;
    ensure!(now.quantile(1.0) < Duration::from_secs(2), "{now}");
    pair.kernels[0].program.signal(Signal::Continue).await?;
    let back = pair.become_healthy(2).await?;
    // Who had been sent there before is answered late, and by nobody else: a live request has no
    // time-out unless one is set.
    let tally = load.finish().await?;
    crate::report_figure(format_args!(
        "a kernel frozen: out after {out:.1?}, back after {back:.1?}; {tally}"
    ));
    tally.ensure_faultless()?;
    beside.finish().await?.ensure_faultless()
}

#[tokio::test]
async fn slow_is_no_fault() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let app = OneShotApp::start(|mut connection| async move {
        for _ in 0..4 {
            connection.read_head_whenever().await?;
            for piece in [
                "HTTP/1.1 200 OK\r\n",
                "Content-Length: 4\r\n\r\n",
                "sl",
                "ow",
            ] {
                // Slow is what is played here.
                tokio::time::sleep(Duration::from_millis(200)).await;
                connection.write(piece).await?;
            }
        }
        Ok(())
    })
    .await?;
    let order = patchbay_tests::opener::Order::http("slow", app.address);
    let door = rig
        .open_order(&order.with("open_to_public", "true"))
        .await?;
    for _ in 0..4 {
        let answer = door.get("/").await?.expect(200)?;
        ensure!(answer.text() == "slow", "{}", answer.text());
    }
    ensure!(!rig.worker.program.log().contains("out of service"));
    app.outcome().await
}

#[tokio::test]
async fn refusing_and_back() -> Result<()> {
    let rig = Rig::start(Parts::embedded()).await?;
    let mut kernel = Kernel::start(&rig, "kernel").await?;
    let order = patchbay_tests::opener::Order::http("app", kernel.address);
    let door = rig
        .open_order(&order.with("open_to_public", "true"))
        .await?;
    door.get("/hello").await?.expect(200)?;
    let other = rig.open("other").await?;
    kernel.program.kill().await?;
    for _ in 0..5 {
        let status = door.get("/hello").await?.status.as_u16();
        ensure!(matches!(status, 502 | 503), "{status}");
        other.get("/hello").await?.expect(200)?;
    }
    kernel.program.start()?;
    eventually("the kernel is used again", SEEN, async || {
        door.get("/hello").await?.expect(200)?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_taken_for_whole() -> Result<()> {
    for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        for fast_lane in [true, false] {
            let rig = Rig::start(Parts::embedded().fast_lane(fast_lane)).await?;
            let app = OneShotApp::start(move |mut connection| async move {
                connection.read_head().await?;
                let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
                connection.write(format!("{head}5\r\nhello\r\n")).await?;
                connection
                    .read_head_whenever()
                    .await
                    .err()
                    .context("it asks again")?;
                Ok(())
            })
            .await?;
            let order = patchbay_tests::opener::Order::http("app", app.address);
            let door = rig
                .open_order(&order.with("open_to_public", "true"))
                .await?;
            let mut client = Connection::open(door.address()?).await?;
            client
                .write_head(&["GET /case HTTP/1.1", "Host: h"])
                .await?;
            let head = client.read_head().await?;
            ensure!(head.status() == "200", "{head:?}");
            client.read_exactly(5).await?;
            // The app's process is gone in the middle of it.
            drop(app);
            let rest = client.read_to_end().await.unwrap_or_default();
            let rest = String::from_utf8_lossy(&rest).into_owned();
            ensure!(!rest.contains("0\r\n\r\n"), "taken for whole: {rest:?}");
        }
    }
    Ok(())
}
