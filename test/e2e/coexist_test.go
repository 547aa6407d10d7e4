package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// neighbourhood is a host's surroundings that weft must live with.
type neighbourhood struct {
	name   string
	change func(*siteConfig)
	// bridged are the values of br_netfilter to try.
	bridged []string
	// noEngineRules says that the engine protects nothing, not even its own.
	noEngineRules bool
	// flushes are what others do to the rules.
	flushes []string
}

func neighbourhoods() []neighbourhood {
	strict := map[string]string{"net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.default.rp_filter": "1"}
	return []neighbourhood{
		{name: "nft", change: func(*siteConfig) {}, bridged: []string{"0", "1"},
			flushes: []string{"iptables -F", "iptables -F; iptables -t nat -F; ip6tables -F", "nft flush ruleset"}},
		{name: "legacy", change: func(c *siteConfig) { c.host.IptablesLegacy, c.host.Sysctls = true, strict }, bridged: []string{"1"},
			flushes: []string{"iptables -F", "nft flush ruleset"}},
		{name: "no engine rules", change: func(c *siteConfig) { c.host.DaemonArgs = []string{"--iptables=false"} }, bridged: []string{"0"},
			noEngineRules: true, flushes: []string{"nft flush ruleset"}},
	}
}

// TestCoexist keeps weft's networks and the engine's own apart, beside whatever
// else filters packets.
func TestCoexist(t *testing.T) {
	t.Parallel()
	for _, n := range neighbourhoods() {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			eachEngine(t, func(s *site) { s.coexist(n) }, n.change)
		})
	}
}

// apart6: not every engine guards its own bridges over IPv6.
func (s *site) apart6() {
	s.docker("network", "create", "--ipv6", "--subnet", "10.35.0.0/24", "--subnet", "fd35::/64", "user6")
	s.network("weft6", "-o", "publish=native", "--ipv6", "--subnet", "10.36.0.0/24", "--subnet", "fd36::/64")
	s.server("b6", "--network", "user6")
	s.run("b6client", "--network", "user6")
	s.server("w6", "--network", "weft6")
	s.run("w6client", "--network", "weft6")
	theirs, ours := "["+s.ip6("b6", "user6")+"]:80", "["+s.ip6("w6", "weft6")+"]:80"
	s.answers(s.from("b6client"), theirs, "b6")
	s.answers(s.from("w6client"), ours, "w6")
	s.silent(s.from("w6client"), theirs)
	s.silent(s.from("b6client"), ours)
	s.docker("rm", "-f", "b6", "b6client", "w6", "w6client")
	s.docker("network", "rm", "user6", "weft6")
}

func (s *site) coexist(n neighbourhood) {
	s.outsideServer(7000)
	s.network("wdocker", "--subnet", "10.31.0.0/24")
	s.network("wnative", "--subnet", "10.32.0.0/24", "-o", "publish=native")
	s.docker("network", "create", "--subnet", "10.33.0.0/24", "user")
	s.server("ww", "--network", "wdocker")
	s.server("wn", "--network", "wnative", "-p", "8400:80")
	s.server("wn2", "--network", "wnative")
	s.server("bb", "--network", "user", "-p", "8402:80")
	s.server("dd")
	if !n.noEngineRules {
		s.server("wp", "--network", "wdocker", "-p", "8401:80")
	}
	for _, value := range n.bridged {
		s.step("br_netfilter "+value, func(s *site) {
			for _, key := range []string{"iptables", "ip6tables"} {
				if err := s.Sysctl(s.Context(), "net.bridge.bridge-nf-call-"+key, value); err != nil {
					s.Fatal(err)
				}
			}
			s.apart(n)
			s.together(n)
		})
	}
	s.step("the engine's bridges over IPv6", (*site).apart6)
	s.step("loopback of the host", (*site).hostLoopback)
	for _, flush := range n.flushes {
		s.step(flush, func(s *site) { s.flushed(flush) })
	}
	s.step("removed", func(s *site) {
		s.clear("wdocker", "wnative", "user")
		s.eventually("no rule of weft's", func() error {
			left := s.sh("nft list tables 2>/dev/null | grep weft; iptables-save | grep -i weft; ip6tables-save | grep -i weft; true")
			if left != "" {
				return fmt.Errorf("there is\n%s", left)
			}
			return nil
		})
	})
}

// apart asks for what nobody published.
func (s *site) apart(n neighbourhood) {
	s.Helper()
	weft := map[string]string{"ww": s.ip("ww", "wdocker"), "wn": s.ip("wn", "wnative")}
	engine := map[string]string{"bb": s.ip("bb", "user"), "dd": s.ip("dd", "bridge")}
	var all []probe
	closed := func(from, to, address string) {
		all = append(all,
			probe{who: from + " to " + to, from: s.inside(from), to: address + ":80"},
			probe{who: from + " to " + to, from: s.inside(from), to: address + ":81", udp: true})
	}
	for from := range engine {
		for to, address := range weft {
			closed(from, to, address)
		}
	}
	closed("ww", "wn", weft["wn"])
	closed("wn", "ww", weft["ww"])
	if n.noEngineRules {
		s.expect(all...)
		return
	}
	for from := range weft {
		closed(from, "dd", engine["dd"])
		// Port 80 of bb is published, and engines before 28 let it be reached at
		// its own address as well.
		all = append(all, probe{who: from + " to bb", from: s.inside(from), to: engine["bb"] + ":81", udp: true})
	}
	// docker_gwbridge, by which wp reaches the outside.
	out, err := s.inside("wp")("sh", "-c", "ip -4 -o addr show scope global | grep -v ' 10.31.' | awk '{print $4}' | cut -d/ -f1")
	if err != nil || out == "" || strings.Contains(out, "\n") {
		s.Fatalf("address of wp on docker_gwbridge: %v %q", err, out)
	}
	for _, from := range []string{"ww", "wn", "bb", "dd"} {
		all = append(all, probe{who: from + " to docker_gwbridge", from: s.inside(from), to: out + ":81", udp: true})
	}
	closed("wp", "wn", weft["wn"])
	closed("wp", "dd", engine["dd"])
	s.expect(all...)
}

// together asks for what should answer.
func (s *site) together(n neighbourhood) {
	s.Helper()
	host := s.IPv4.String()
	all := []probe{
		{who: "wn2", from: s.inside("wn2"), to: "wn:80", want: "wn from " + s.ip("wn2", "wnative")},
		{who: "wn2", from: s.inside("wn2"), to: host + ":8400", want: "wn"},
		{who: "wn itself", from: s.inside("wn"), to: host + ":8400", want: "wn"},
		{who: "outside", from: s.fromOutside(), to: host + ":8400", want: "wn from " + s.out.IPv4.String()},
		{who: "the host", from: s.fromHost(), to: "127.0.0.1:8400", want: "wn"},
		{who: "ww", from: s.inside("ww"), to: host + ":8400", want: "wn from " + s.ip("ww", "wdocker")},
		{who: "ww to outside", from: s.inside("ww"), to: s.out.IPv4.String() + ":7000", want: "outside from " + host},
		{who: "wn to outside", from: s.inside("wn"), to: s.out.IPv4.String() + ":7000", want: "outside from " + host},
		{who: "outside", from: s.fromOutside(), to: host + ":8402", want: "bb"},
		{who: "dd", from: s.inside("dd"), to: host + ":8400", want: "wn"},
		{who: "bb", from: s.inside("bb"), to: host + ":8400", want: "wn"},
	}
	if !n.noEngineRules {
		for _, from := range []string{"ww", "wn", "bb", "dd"} {
			all = append(all,
				probe{who: from, from: s.inside(from), to: host + ":8401", want: "wp"},
				probe{who: from, from: s.inside(from), to: host + ":8402", want: "bb"})
		}
		all = append(all,
			probe{who: "wp to outside", from: s.inside("wp"), to: s.out.IPv4.String() + ":7000", want: "outside from " + host},
			probe{who: "wp", from: s.inside("wp"), to: "ww:80", want: "ww"},
			probe{who: "outside", from: s.fromOutside(), to: host + ":8401", want: "wp"},
			probe{who: "dd to outside", from: s.inside("dd"), to: s.out.IPv4.String() + ":7000", want: "outside from " + host})
	}
	s.expect(all...)
}

// hostLoopback lets a container that may change its own routes send to
// 127.0.0.1 of the host.
func (s *site) hostLoopback() {
	if _, err := s.Background("socat", "TCP4-LISTEN:9100,bind=127.0.0.1,fork,reuseaddr", "SYSTEM:echo secret"); err != nil {
		s.Fatal(err)
	}
	s.answers(s.fromHost(), "127.0.0.1:9100", "secret")
	s.sh("for f in /proc/sys/net/ipv4/conf/*/route_localnet; do echo 1 >$f; done")
	attack := func(network string) string {
		s.Helper()
		out, _ := s.Docker(s.Context(), "run", "--rm", "--network", network, "--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.conf.all.route_localnet=1",
			"weft/test:latest", "sh", "-c", `gw=$(ip route show default | awk '{print $3}'); ip addr flush dev lo
ip route flush table local dev lo; ip route add 127.0.0.0/8 via $gw
timeout 2 socat -T1 - TCP:127.0.0.1:9100,connect-timeout=1,shut-none`)
		return out
	}
	if out := attack("bridge"); out != "secret" {
		s.Errorf("the attack does not work even where nobody defends: %q", out)
	}
	for _, network := range []string{"wdocker", "wnative"} {
		if out := attack(network); out != "" {
			s.Errorf("a container of %s reached the host's loopback: %s", network, out)
		}
	}
	// A published port of the host's loopback is no way in either.
	s.expect(probe{who: "ww", from: s.inside("ww"), to: "127.0.0.1:9100"})
}

// pace measures what the machine makes meanwhile of the work of a repair: of as many
// programs as weft starts one after the other to look at iptables and at its own table and
// to mend both. The function that it returns ends that, and says how long they took at most.
func (s *site) pace() func() time.Duration {
	ctx, cancel := context.WithCancel(s.Context())
	longest := make(chan time.Duration)
	go func() {
		var most time.Duration
		for ctx.Err() == nil {
			begin := time.Now()
			if _, err := s.Run(ctx, "sh", "-ec", "for i in 1 2 3 4 5 6 7; do nft list tables; done"); err != nil && ctx.Err() == nil {
				s.Error(err)
			}
			most = max(most, time.Since(begin)) // those that are cut short count as far as they came
		}
		longest <- most
	}()
	return func() time.Duration {
		cancel()
		return <-longest
	}
}

// flushed measures how long others' flushes are felt. On a machine that is short of time
// it may be longer by two repairs' work at the moment's pace: weft may have been looking
// when the rules went, and looks again.
func (s *site) flushed(flush string) {
	const limit = time.Second
	quick := func(from asker, address string) error {
		out, err := from("timeout", "0.3", "socat", "-T0.2", "-", "TCP:"+address+",connect-timeout=0.1,shut-none")
		if err == nil && out == "" {
			err = fmt.Errorf("no answer")
		}
		return err
	}
	wn2, wn := s.inside("wn2"), s.ip("wn", "wnative")
	paths := map[string]func() error{
		"way out":        func() error { return quick(wn2, s.out.IPv4.String()+":7000") },
		"published port": func() error { return quick(s.fromOutside(), s.IPv4.String()+":8400") },
		"neighbours":     func() error { return quick(wn2, wn+":80") },
	}
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	repairs := s.repairs()
	pace := s.pace()
	s.sh(flush)
	begin := time.Now()
	took := map[string]time.Duration{}
	for what, try := range paths {
		err := try()
		for err != nil && ctx.Err() == nil {
			err = try()
		}
		if err != nil {
			s.Errorf("%s: the %s: %v", flush, what, err)
		}
		took[what] = time.Since(begin)
	}
	work := pace()
	s.Logf("%s: repaired after %v; a repair's programs took %v", flush, took, work)
	for what, t := range took {
		if t > limit+2*work {
			s.Errorf("%s: the %s was back after %v; a repair's programs took %v meanwhile", flush, what, t, work)
		}
	}
	if now := s.repairs(); now == repairs {
		s.Errorf("%s: weft status still counts %d repairs", flush, now)
	}
	s.expect(
		probe{who: "ww to wn", from: s.inside("ww"), to: wn + ":80"},
		probe{who: "dd to wn", from: s.inside("dd"), to: wn + ":80"},
	)
}

func (s *site) repairs() uint64 {
	s.Helper()
	return weftJSON[struct{ Reconcile struct{ Repairs uint64 } }](s, "status").Reconcile.Repairs
}
