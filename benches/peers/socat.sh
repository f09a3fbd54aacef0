# socat forks a process for each connection, and for each client that sends datagrams. It connects to the fixed origin.
socat UDP4-LISTEN:9999,bind=127.0.0.1,fork,reuseaddr UDP4:10.9.9.1:7777 &
exec socat TCP4-LISTEN:9999,bind=127.0.0.1,fork,reuseaddr,backlog=4096,nodelay TCP4:10.9.9.1:7776,nodelay
