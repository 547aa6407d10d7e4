//go:build linux

// Package lab makes test hosts with real Docker engines on one Linux machine.
//
// A host is a Debian root on overlayfs with its own network, mount, PID, UTS,
// IPC and cgroup namespaces, its own /run, containerd and dockerd. Hosts are
// joined by veth pairs to a switch: one more network namespace with a bridge.
// A test asks for what it needs and everything is gone when it ends:
//
//	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{
//		{Name: "h1", Engine: "28.5.2"},
//		{Name: "h2", Engine: "20.10.24", DaemonJSON: `{"live-restore": true}`},
//	}})
//	h1 := l.Host("h1")
//	h1.MustDocker(t, "run", "-d", "-p", "80:80", lab.Image, "socat", "tcp-l:80,fork", "exec:date")
//	out, err := l.Outside.Run(ctx, "socat", "-", "tcp:"+h1.IPv4.String()+":80")
//
// The engine of a host is the one of a Debian release: 20.10.24 (bookworm),
// 26.1.5 (trixie) or 28.5.2 (forky). HostConfig.Dockerd, or the variable
// WEFT_LAB_DOCKERD_<NAME> with the host's name in capitals, puts another
// dockerd in its place; other engine binaries that lie beside it (docker,
// docker-proxy, containerd, runc ...) are taken along. WEFT_LAB_ENGINE is the
// engine of hosts that name none.
//
// Every host has eth0 with 10.77.0.(10+N)/24 and fd77::(10+N)/64, N counted
// from 1, and a default route to the switch, which forwards but leads nowhere
// else. Lab.Outside is a host without an engine, at .200, that plays another
// machine: give it routes with Run(ctx, "ip", "route", "add", ...). Labs of several processes do not meet, so all use these addresses.
//
// StartStore runs a cluster of etcd, one member on each host that it is given:
//
//	store, err := lab.StartStore(ctx, lab.StoreConfig{Members: l.Hosts, TLS: true, Auth: true})
//	settings := store.Settings() // WEFT_STORE=etcd://10.77.0.11:2379,... and the rest
//	err = store.Kill(ctx, h1)
//
// etcd is the one of the host's Debian release: 3.4.23, 3.5.16 or 3.5.30, and
// members of different releases form one cluster. A member shares the fate of
// its host: it is cut off and powered off with it, and runs again after the boot.
//
// Roots are built on first use (a minute each) with debootstrap and kept in
// $WEFT_LAB_CACHE, /var/cache/weft-lab by default. They hold the image
// weft/test:latest already, so that no test pulls or loads anything.
// HostConfig.Plugin brings a plugin along in the same way: one engine of each
// version makes it, all hosts are given a copy of what it keeps. With
// HostConfig.Light containers cost a quarter less, on engines a little less real, and
// half with Host.Runtime.
//
// Without live-restore in DaemonJSON the containers outlive KillEngine only
// until the next StartEngine, as everywhere with Docker.
//
// A run that was killed leaves its hosts behind; the next New, or
// "weftlab clean", finds and removes them.
//
// What it does not do: the hosts share the machine's kernel, so there is no
// module loading, and a sysctl outside a network namespace is everybody's.
// Host.PowerOff kills processes and loses /run, but the page cache survives:
// a missing fsync does not show. There is no way to the Internet. It was tried
// on hybrid cgroup v1; the pure cgroup v2 branch is written but untried.
package lab
