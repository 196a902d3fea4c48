"""The proxies Patchbay is measured against, each tuned for this job: one thread, no access log,
kept-alive connections to the origin. A recipe writes the configuration and answers with the
command and the environment that start it in the foreground."""

import json
import pathlib


def nginx(given, port, origin):
    folder = given.folder / "nginx"
    folder.mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(f"""
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream origin {{
        server 127.0.0.1:{origin};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
""")
    return ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"], None


def haproxy(given, port, origin):
    file = given.folder / "haproxy.cfg"
    file.write_text(f"""
global
    nbthread 1
    maxconn 9900
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
    option http-keep-alive
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend origin
backend origin
    server one 127.0.0.1:{origin} pool-max-conn 1024
""")
    return ["haproxy", "-db", "-q", "-f", file], None


def envoy(given, port, origin):
    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    extensions = "type.googleapis.com/envoy.extensions.filters"
    connections = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": False,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": f"{extensions}.http.router.v3.Router"}}],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
        }]},
    }
    unlimited = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
    configuration = {"static_resources": {
        "listeners": [{"name": "in", "address": address(port), "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": connections},
        ]}]}],
        "clusters": [{
            "name": "origin", "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [unlimited]},
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(origin)}}]}]},
        }],
    }}
    file = given.folder / "envoy.json"
    file.write_text(json.dumps(configuration, indent=1))
    return [given.venv / "bin/envoy", "-c", file, "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "error"], None


def traefik(given, port, origin):
    file = given.folder / "traefik-routes.yaml"
    file.write_text(json.dumps({"http": {
        "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "origin", "entryPoints": ["in"]}},
        "services": {"origin": {"loadBalancer": {
            "servers": [{"url": f"http://127.0.0.1:{origin}"}], "serversTransport": "kept"}}},
        "serversTransports": {"kept": {"maxIdleConnsPerHost": 1024}},
    }}, indent=1))
    return [given.venv / "bin/traefik", f"--entryPoints.in.address=127.0.0.1:{port}",
            f"--providers.file.filename={file}", "--log.level=ERROR",
            "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"], \
        {"GOMAXPROCS": "1"}


def bare_pingora(given, port, origin):
    return [given.programs / "bare-pingora", "--listen", f"127.0.0.1:{port}",
            "--upstream", f"127.0.0.1:{origin}"], None


def nginx_stream(given, port, origin):
    folder = given.folder / "nginx-stream"
    folder.mkdir(exist_ok=True)
    module = next(pathlib.Path("/usr").glob("lib*/nginx/modules/ngx_stream_module.so"), None)
    load = f"load_module {module};" if module else ""
    (folder / "nginx.conf").write_text(f"""
{load}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 8192; multi_accept on; }}
stream {{
    access_log off;
    proxy_buffer_size 64k;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass 127.0.0.1:{origin};
    }}
}}
""")
    return ["nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]


def haproxy_tcp(given, port, origin, splice="option splice-auto"):
    file = given.folder / f"haproxy-tcp-{port}.cfg"
    file.write_text(f"""
global
    nbthread 1
    maxconn 1024
defaults
    mode tcp
    {splice}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend origin
backend origin
    server one 127.0.0.1:{origin}
""")
    return ["haproxy", "-db", "-q", "-f", file]


def haproxy_copies(given, port, origin):
    return haproxy_tcp(given, port, origin, splice="")


TCP_RECIPES = {
    "haproxy": haproxy_tcp,
    "haproxy-copies": haproxy_copies,
    "nginx": nginx_stream,
}

RECIPES = {
    "bare-pingora": bare_pingora,
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "traefik": traefik,
}
