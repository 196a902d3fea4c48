-- The incumbent's schema at alembic revision a1b2c3d4e5f6 (contract/database.md §6), for a database
-- that is empty. The Python coordinator runs on it; an existing one of its making is left as it is.

CREATE EXTENSION IF NOT EXISTS "uuid-ossp";

CREATE TYPE appmode AS ENUM ('INTERACTIVE', 'INFERENCE');
CREATE TYPE frontendmode AS ENUM ('WILDCARD_DOMAIN', 'PORT');
CREATE TYPE proxyprotocol AS ENUM ('HTTP', 'GRPC', 'HTTP2', 'TCP', 'PREOPEN', 'VNC', 'RDP');

CREATE TABLE workers (
  id uuid NOT NULL DEFAULT uuid_generate_v4() CONSTRAINT pk_workers PRIMARY KEY,
  authority varchar(255) NOT NULL CONSTRAINT uq_workers_authority UNIQUE,
  frontend_mode frontendmode NOT NULL,
  protocol proxyprotocol NOT NULL,
  hostname varchar(1024) NOT NULL,
  tls_listen boolean NOT NULL DEFAULT false,
  tls_advertised boolean NOT NULL DEFAULT false,
  api_port integer NOT NULL,
  available_slots integer NOT NULL,
  occupied_slots integer NOT NULL,
  port_range integer[],
  wildcard_domain varchar(1024),
  wildcard_traffic_port integer,
  nodes integer NOT NULL,
  accepted_traffics appmode[] NOT NULL,
  filtered_apps_only boolean NOT NULL,
  traefik_last_used_marker_path varchar(1024),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  status varchar(64) NOT NULL DEFAULT 'ALIVE'
);

CREATE TABLE worker_app_filters (
  id uuid NOT NULL DEFAULT uuid_generate_v4() CONSTRAINT pk_worker_app_filters PRIMARY KEY,
  property_name varchar(96) NOT NULL,
  property_value varchar(1024) NOT NULL,
  worker uuid NOT NULL CONSTRAINT fk_worker_app_filters_worker_workers REFERENCES workers (id),
  CONSTRAINT uq_worker_app_filter_worker_property_name_property_value
    UNIQUE (worker, property_name, property_value)
);

CREATE TABLE circuits (
  id uuid NOT NULL DEFAULT uuid_generate_v4() CONSTRAINT pk_circuits PRIMARY KEY,
  app varchar(255),
  protocol proxyprotocol NOT NULL,
  worker uuid NOT NULL CONSTRAINT fk_circuits_worker_workers REFERENCES workers (id),
  app_mode appmode NOT NULL,
  frontend_mode frontendmode NOT NULL,
  port integer,
  subdomain varchar(255),
  envs jsonb,
  arguments varchar(1000),
  open_to_public boolean NOT NULL,
  allowed_client_ips varchar(255),
  user_id uuid,
  endpoint_id uuid,
  runtime_variant varchar(64),
  session_ids uuid[] NOT NULL,
  route_info jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tokens (
  id uuid NOT NULL DEFAULT uuid_generate_v4() CONSTRAINT pk_tokens PRIMARY KEY,
  login_session_token varchar(127),
  kernel_host varchar(255) NOT NULL,
  kernel_port integer NOT NULL,
  session_id uuid NOT NULL,
  user_uuid uuid NOT NULL,
  group_id uuid NOT NULL,
  access_key text NOT NULL,
  domain_name text NOT NULL
);

CREATE TABLE endpoints (
  id uuid NOT NULL DEFAULT uuid_generate_v4() CONSTRAINT pk_endpoints PRIMARY KEY,
  health_check_enabled boolean NOT NULL DEFAULT false,
  health_check_config jsonb,
  created_at timestamptz DEFAULT now(),
  updated_at timestamptz DEFAULT now()
);

CREATE TABLE alembic_version (
  version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY
);
INSERT INTO alembic_version VALUES ('a1b2c3d4e5f6');
