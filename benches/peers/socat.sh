# socat forks for each connection, and for each client of datagrams. The origin stands here.
socat UDP4-LISTEN:9999,bind=127.0.0.1,fork,reuseaddr UDP4:10.9.9.1:7777 &
exec socat TCP4-LISTEN:9999,bind=127.0.0.1,fork,reuseaddr,backlog=4096,nodelay TCP4:10.9.9.1:7776,nodelay
