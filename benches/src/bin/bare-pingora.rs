//! Pingora's `ProxyHttp` with nothing on top, tuned the way Patchbay's worker is: what the engine
//! itself costs, for `scripts/bench`.

use std::io;

use async_trait::async_trait;
use mimalloc::MiMalloc;
use pingora_core::Result;
use pingora_core::modules::http::HttpModules;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

struct Bare(HttpPeer);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    /// No modules: compression is not what is measured.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }
}

fn main() -> io::Result<()> {
    let addresses = patchbay_benches::addresses(std::env::args().skip(1));
    let addresses = addresses.map_err(io::Error::other)?;
    let (Some(listen), Some(upstream)) = (addresses.get("listen"), addresses.get("upstream"))
    else {
        return Err(io::Error::other(
            "usage: bare-pingora --listen ADDRESS:PORT --upstream ADDRESS:PORT",
        ));
    };
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let peer = HttpPeer::new(*upstream, false, String::new());
    let mut service = http_proxy_service(&server.configuration, Bare(peer));
    service.add_tcp(&listen.to_string());
    server.add_service(service);
    server.run_forever()
}
