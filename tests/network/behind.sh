#!/bin/bash
# rbuild behind a proxy only, and a registry in TLS that wants a client certificate, over HTTP/1.1 and HTTP/2.
#
#   tests/network/behind.sh RBUILD     as root; needs docker-registry, squid, nginx, openssl, iproute2 and busybox-static
#
# A network namespace has one link to this machine and no route beyond it; there squid listens and nothing else. nginx, with a private
# authority, and docker-registry behind it listen on an address that the namespace cannot reach.
set -euo pipefail
rbuild=$(readlink -f "$1")
dir=$(mktemp -d) ns=rbuild-behind-$$ link=rb$$
inside=10.213.77.2 proxy=10.213.77.1 server=10.213.78.1
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  ip netns del "$ns" 2>/dev/null || true
  ip link del "$link" 2>/dev/null || true
  ip addr del "$server/32" dev lo 2>/dev/null || true
  rm -rf "$dir" "/dev/shm/rbuild$$-"*
}
trap cleanup EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

ip netns add "$ns"
ip link add "$link" type veth peer name eth0 netns "$ns"
ip addr add "$proxy/30" dev "$link"; ip link set "$link" up
ip -n "$ns" addr add "$inside/30" dev eth0; ip -n "$ns" link set eth0 up; ip -n "$ns" link set lo up
ip addr add "$server/32" dev lo

# An authority, a server's certificate and a client's.
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout "$dir/ca.key" -out "$dir/ca.crt" 2>/dev/null
issue() { # NAME EXTENSION
  openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$dir/$1.key" -out "$dir/$1.csr" 2>/dev/null
  openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 1 \
    -extfile <(echo "$2") -out "$dir/$1.cert" 2>/dev/null
}
issue server "subjectAltName=IP:$server"
issue client "extendedKeyUsage=clientAuth"

cat > "$dir/registry.yml" <<EOF
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/data}}
http: {addr: "127.0.0.1:15077", relativeurls: true}
EOF
docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 & pids+=($!)
cat > "$dir/nginx.conf" <<EOF
daemon off; error_log $dir/nginx.err; pid $dir/nginx.pid; events {}
http {
  log_format seen '\$server_protocol \$request_method \$ssl_client_verify \$status';
  access_log $dir/nginx.log seen;
  client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  client_max_body_size 0;
  ssl_certificate $dir/server.cert; ssl_certificate_key $dir/server.key; ssl_client_certificate $dir/ca.crt;
  server { listen $server:8443 ssl; ssl_verify_client on; location / { proxy_pass http://127.0.0.1:15077; proxy_set_header Host \$http_host; } }
  server { listen $server:8444 ssl http2; ssl_verify_client on; location / { proxy_pass http://127.0.0.1:15077; proxy_set_header Host \$http_host; } }
}
EOF
chmod 755 "$dir"; nginx -c "$dir/nginx.conf" 2>"$dir/nginx.start" & pids+=($!)
cat > "$dir/squid.conf" <<EOF
http_port $proxy:3128
http_access allow all
access_log stdio:$dir/squid.log
cache_log $dir/squid.cache
pid_filename none
visible_hostname proxy.invalid
shutdown_lifetime 0 seconds
cache deny all
coredump_dir $dir
EOF
chown proxy "$dir"
squid -N -n "rbuild$$" -f "$dir/squid.conf" >"$dir/squid.start" 2>&1 & pids+=($!)
listens() { for _ in $(seq 200); do (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null && return; sleep 0.1; done; fail "nothing listens at $1:$2"; }
listens 127.0.0.1 15077; listens "$server" 8443; listens "$server" 8444; listens "$proxy" 3128

mkdir -p "$dir/context/root/bin"
cp "$(command -v busybox)" "$dir/context/root/bin/busybox"
for applet in sh env; do ln -s busybox "$dir/context/root/bin/$applet"; done
hosts=(--registry-ca "$server=$dir/ca.crt" --registry-client-cert "$server=$dir/client.cert,$dir/client.key")
run() { # STORE, then rbuild's arguments: behind the proxy only
  local store=$1; shift
  ip netns exec "$ns" env -i PATH="$PATH" HOME="$dir" HTTPS_PROXY="http://$proxy:3128" HTTP_PROXY="http://$proxy:3128" \
    NO_PROXY=192.168.0.0/16 RBUILD_ROOT="$store" SOURCE_DATE_EPOCH=1 "$rbuild" "$@"
}
direct() {
  local store=$1; shift
  env -i PATH="$PATH" HOME="$dir" RBUILD_ROOT="$store" SOURCE_DATE_EPOCH=1 "$rbuild" "$@"
}
ip netns exec "$ns" timeout 3 bash -c "exec 3<>/dev/tcp/$server/8443" 2>/dev/null && fail "there is a direct route"

for port in 8443 8444; do
  base=$server:$port/team/base:1 app=$server:$port/team/app:1
  printf 'FROM scratch\nCOPY root /\n' > "$dir/context/Dockerfile"
  direct "$dir/seed$port" "${hosts[@]}" -q -t "$base" "$dir/context"  > /dev/null
  printf 'FROM %s\nCOPY Dockerfile /d\nRUN ["/bin/sh", "-c", "echo made > /made"]\n' "$base" > "$dir/context/Dockerfile"
  # push=true and the digest of what was made, once behind the proxy and once without.
  behind=$(run "$dir/behind$port" "${hosts[@]}" -q --output-attrs rewrite-timestamp=true -t "$app" "$dir/context") || fail "build and push behind the proxy, port $port"
  pulled=$(run "$dir/pulled$port" pull "${hosts[@]}" -q "$app") || fail "pull behind the proxy, port $port"
  without=$(direct "$dir/direct$port" "${hosts[@]}" -q --no-push --output-attrs rewrite-timestamp=true -t "$app" "$dir/context")
  [ "$pulled" = "$without" ] || fail "other images: $pulled behind the proxy, $without without"
  keys() { (cd "$1/cache" && find . -type f -printf '%P\n' | sort); }
  [ -n "$(keys "$dir/behind$port")" ] || fail "no cache keys in $dir/behind$port"
  [ "$(keys "$dir/behind$port")" = "$(keys "$dir/direct$port")" ] || fail "other cache keys"
  direct "$dir/inspect$port" inspect "${hosts[@]}" --format json "$app" | grep -qi proxy && fail "the image tells of the proxy"
  # Without a certificate of ours the server refuses.
  run "$dir/none$port" pull --registry-ca "$server=$dir/ca.crt" -q "$app" >/dev/null 2>&1 && fail "a pull without a certificate"
  echo "port $port: $behind"
done
grep -q "CONNECT $server:8443" "$dir/squid.log" && grep -q "CONNECT $server:8444" "$dir/squid.log" || fail "squid was not asked"
echo "nginx saw (protocol, client certificate, requests):"
awk '{print $1, $3}' "$dir/nginx.log" | sort | uniq -c
grep -q '^HTTP/2.0 PUT SUCCESS 201' "$dir/nginx.log" && grep -q '^HTTP/1.1 PUT SUCCESS 201' "$dir/nginx.log" || fail "a protocol was not used"
echo "squid tunnelled: $(grep -c CONNECT "$dir/squid.log")"
echo done
