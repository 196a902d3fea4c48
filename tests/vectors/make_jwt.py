"""Makes jwt.json: tokens of PyJWT, good ones and forgeries, and the key set that checks them.

    python3 -m venv target/pyjwt && target/pyjwt/bin/pip install 'pyjwt[crypto]==2.*'
    target/pyjwt/bin/python tests/vectors/make_jwt.py

Keys are thrown away after each run. Times are fixed: 2100 stands for ever, 2020 for long ago, so
that the file never grows old; what depends on the second is tried by leeway (see the scenario).
"""

import base64
import datetime
import hashlib
import hmac
import json
import pathlib

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

EVER = int(datetime.datetime(2100, 1, 1, tzinfo=datetime.timezone.utc).timestamp())
LATER = int(datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc).timestamp())
LONG_AGO = int(datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc).timestamp())
SECRET = "a secret of more than sixty-four letters, so that it will do for HS512 as well"
CLAIMS = {"iss": "https://issuer.example", "aud": "shop", "sub": "ada", "exp": EVER,
          "nbf": LONG_AGO, "scope": "read write"}


def encode(part):
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def part(value):
    return encode(json.dumps(value).encode())


def jwk(key, kid, alg):
    public = json.loads(jwt.get_algorithm_by_name(alg).to_jwk(key.public_key()))
    public.pop("key_ops", None)
    return {**public, "kid": kid, "use": "sig"}


def main():
    keys = {
        "rsa": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    key_of = {"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa",
              "PS512": "rsa", "ES256": "p256", "ES384": "p384", "EdDSA": "ed"}

    def sign(alg="RS256", kid=None, key=None, headers=None, **claims):
        name = key_of[alg]
        payload = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
        return jwt.encode(payload, key or keys[name], algorithm=alg,
                          headers={"kid": kid or name, **(headers or {})})

    pem = keys["rsa"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def confused(alg, digest, **header):
        # PyJWT itself refuses a public key as a secret.
        body = f"{part({'alg': alg, 'typ': 'JWT', 'kid': 'rsa', **header})}.{part(CLAIMS)}"
        return f"{body}.{encode(hmac.new(pem, body.encode(), digest).digest())}"

    good = sign()
    head, body, signature = good.split(".")
    other = part({**CLAIMS, "sub": "root"})
    zeros = sign("ES256").rsplit(".", 1)[0] + "." + encode(bytes(64))
    own = jwk(stranger, "rsa", "RS256")
    forged = {
        "none": jwt.encode(CLAIMS, None, algorithm="none", headers={"kid": "rsa"}),
        "none in capitals": f"{part({'alg': 'NONE', 'kid': 'rsa'})}.{body}.",
        "none with a good signature": f"{part({'alg': 'none', 'kid': 'rsa'})}.{body}.{signature}",
        "without a signature": f"{head}.{body}.",
        "HS256 with the public key": confused("HS256", hashlib.sha256),
        "HS512 with the public key": confused("HS512", hashlib.sha512),
        "another's key": sign(key=stranger),
        "another's key in its own header": sign(key=stranger, headers={"jwk": own}),
        "another's key at an address": sign(key=stranger, headers={"jku": "http://127.0.0.1:9/"}),
        "a kid nobody knows": sign(kid="nobody"),
        "a kid of another kind of key": sign(kid="p256"),
        "a kid that is a path": sign(kid="../../dev/null"),
        "ES256 signed with zeros": zeros,
        "an algorithm not of this route": sign("PS256"),
        "other claims": f"{head}.{other}.{signature}",
        "a changed signature": f"{head}.{body}.{encode(bytes(256))}",
        "expired long ago": sign(exp=LONG_AGO),
        "not valid before 2100": sign(nbf=EVER - 1),
        "without an end": sign(exp=None),
        "an end in words": f"{part({'alg': 'RS256', 'kid': 'rsa'})}.{part({**CLAIMS, 'exp': 'x'})}.{signature}",
        "another issuer": sign(iss="https://evil.example"),
        "without an issuer": sign(iss=None),
        "another audience": sign(aud="bank"),
        "without an audience": sign(aud=None),
        "huge": sign(x="y" * 9000),
        "a critical extension nobody knows": sign(headers={"crit": ["x"], "x": 1}),
    }
    hs = {alg: jwt.encode(CLAIMS, SECRET, algorithm=alg) for alg in ("HS256", "HS384", "HS512")}
    vectors = {
        "made_by": f"PyJWT {jwt.__version__}",
        "keys": [jwk(keys["rsa"], "rsa", "RS256"), jwk(keys["p256"], "p256", "ES256"),
                 jwk(keys["p384"], "p384", "ES384"), jwk(keys["ed"], "ed", "EdDSA")],
        "secret": SECRET,
        "good": {alg: sign(alg) for alg in key_of},
        "shared_secret": hs,
        "ended": {"exp": LONG_AGO, "token": sign(exp=LONG_AGO, nbf=None)},
        "begins": {"nbf": LATER, "token": sign(nbf=LATER)},
        "forged": forged,
    }
    for alg, token in vectors["good"].items():
        name = key_of[alg]
        claims = jwt.decode(token, keys[name].public_key(), algorithms=[alg], audience="shop")
        assert claims == CLAIMS, alg
    file = pathlib.Path(__file__).with_name("jwt.json")
    file.write_text(json.dumps(vectors, indent=1) + "\n")


main()
