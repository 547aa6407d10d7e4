// Package hostport holds the host ports that weft publishes, so that nobody
// else takes them, and serves what address translation cannot.
//
// The firewall carries published traffic; here a bound socket keeps each port
// reserved. The IPv6 socket also listens: the kernel cannot translate traffic
// to [::1], nor from IPv6 to a container that has only IPv4, so a small proxy
// carries those connections.
//
//	t := hostport.New(hostport.Config{Holder: k.PortHolder})
//	got, err := t.Reserve(hostport.Request{Owner: endpoint, Proto: 6, Want: …, First: 8080, Last: 8080})
//	t.Release(endpoint)
//
// It installs no rule and keeps nothing on disk; after a restart the driver
// reserves again what its journal says.
package hostport
