#!/bin/sh
# The certificates of tests/tls: an authority, and a server of it at 127.0.0.1. The server's key
# guards nothing; the authority's is thrown away.
set -eu
cd "$(dirname "$0")/../tests/tls"
new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500"
openssl req -x509 $new -subj "/CN=flowreg test authority" -keyout authority.key -out authority.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl req $new -subj "/CN=flowreg test server" -keyout server.key -out server.csr
printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' >server.ext
openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -days 36500 \
    -extfile server.ext -outform DER -out server.der
openssl pkcs8 -topk8 -nocrypt -in server.key -outform DER -out server.key.der
rm authority.key server.key server.csr server.ext
