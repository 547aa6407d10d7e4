package e2e_test

import "testing"

// TestSmoke is the shortest story: a network, two containers that know each
// other by name, a published port, and nothing left.
func TestSmoke(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before := s.hostState()
		s.network("mynet", "--subnet", "192.168.0.0/16", "--gateway", "192.168.0.1")
		s.server("web", "--network", "mynet", "-p", "8080:80")
		s.run("client", "--network", "mynet")
		s.answers(s.from("client"), "web:80", "web from 192.168.")
		s.answers(s.fromOutside(), s.IPv4.String()+":8080", "web")
		s.pings(s.from("client"), s.out.IPv4.String())
		s.docker("rm", "-f", "web", "client")
		s.docker("network", "rm", "mynet")
		s.eventually("the host as before", func() error { return same(before, s.hostState()) })
	})
}
