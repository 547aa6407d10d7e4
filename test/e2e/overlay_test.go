package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// overlays creates an overlay on the first host and waits until all have it.
func (c *cluster) overlays(name string, args ...string) {
	c.Helper()
	c.connected()
	c.must(c.sites[0].overlay(name, args...))
	c.has(name, true, c.sites...)
}

// TestOverlay: three hosts, three engines, one subnet of both families.
func TestOverlay(t *testing.T) {
	t.Parallel()
	all := engines()
	c := newCluster(t, clusterConfig{engines: []string{all[0], all[len(all)/2], all[len(all)-1]}, members: 1})
	c.overlays("demo", "--subnet", "10.60.0.0/24", "--ipv6", "--subnet", "fd60::/64")
	c.all(func(s *site) error {
		s.server("web-"+s.Host.Name, "--network", "demo")
		return nil
	})
	for _, filter := range []string{"1", "0"} {
		c.all(func(s *site) error {
			for _, tables := range []string{"iptables", "ip6tables", "arptables"} {
				if err := s.Sysctl(s.Context(), "net.bridge.bridge-nf-call-"+tables, filter); err != nil {
					return err
				}
			}
			return nil
		})
		c.step("br_netfilter "+filter, func(c *cluster) {
			c.step("everybody reaches everybody", (*cluster).meshed)
			c.step("every byte arrives", (*cluster).transfers)
			c.step("the largest packet", func(c *cluster) { c.largest(1450) })
			c.step("broadcast and multicast", (*cluster).shouts)
			c.step("past the bridge", (*cluster).pastBridge)
			c.step("quiet underlay", (*cluster).quiet)
		})
	}
	for _, s := range c.sites {
		if out := s.sh("nft list set bridge weft gw4"); !strings.Contains(out, ". 10.60.0.1 }") {
			s.Errorf("the gateway is not kept out of the tunnel:\n%s", out)
		}
	}
	for _, s := range c.sites {
		if policy := s.sh("iptables -S FORWARD | head -1"); !strings.Contains(policy, "DROP") {
			t.Errorf("%s: the engine's policy is %q", s.Host.Name, policy)
		}
	}
	c.step("nothing is left", (*cluster).overlayGone)
}

// meshed: every container and every host reaches every container.
func (c *cluster) meshed() {
	c.Helper()
	for _, to := range c.sites {
		name := "web-" + to.Host.Name
		for _, addr := range []string{to.ip(name, "demo"), "[" + to.ip6(name, "demo") + "]"} {
			for _, from := range c.sites {
				client := "web-" + from.Host.Name
				from.answers(from.from(client), addr+":80", name)
				from.answers(from.fromHost(), addr+":80", name)
				from.eventually("UDP from "+client+" to "+name, func() error {
					out, err := getUDP(from.from(client), addr+":81")
					if err == nil && !strings.Contains(out, name) {
						err = fmt.Errorf("the answer is %q", out)
					}
					return err
				})
				from.pings(from.from(client), strings.Trim(addr, "[]"))
			}
		}
	}
	for _, s := range c.sites {
		s.pings(s.from("web-"+s.Host.Name), s.out.IPv4.String())
	}
}

// pastBridge: containers reach each other while the bridges let no IP pass, but for
// ICMPv6, and do so within a second after somebody took the short cuts away.
func (c *cluster) pastBridge() {
	c.Helper()
	c.all(func(s *site) error {
		_, err := s.Run(s.Context(), "nft", "table bridge foreign { chain c { type filter hook forward priority -10; meta l4proto != icmpv6 drop; }; }")
		return err
	})
	talk := func() {
		c.Helper()
		for i, from := range c.sites {
			to := c.sites[(i+1)%len(c.sites)]
			name := "web-" + to.Host.Name
			from.answers(from.from("web-"+from.Host.Name), to.ip(name, "demo")+":80", name)
			from.answers(from.from("web-"+from.Host.Name), "["+to.ip6(name, "demo")+"]:80", name)
		}
	}
	talk()
	c.all(func(s *site) error {
		_, err := s.Run(s.Context(), "sh", "-c", "nft delete table $(nft list tables netdev | cut -d' ' -f2-)")
		return err
	})
	talk()
	c.all(func(s *site) error {
		_, err := s.Run(s.Context(), "nft", "delete table bridge foreign")
		return err
	})
}

// noOffload lets a container compute its checksums itself: a tunnel must carry what is
// right on the wire, and not what a card would have put right.
const noOffload = `
import array, fcntl, socket, struct
value = array.array("B", struct.pack("II", 0x17, 0))  # ETHTOOL_STXCSUM, off
address, _ = value.buffer_info()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    fcntl.ioctl(s, 0x8946, struct.pack("16sP", b"eth0", address) + bytes(16))  # SIOCETHTOOL
`

// transfers: 100 MB from the first host to each other, without offload. cksum costs a
// tenth of what a cryptographic sum does.
func (c *cluster) transfers() {
	c.Helper()
	const megabytes = 100
	from := c.sites[0]
	for i, to := range c.sites[1:] {
		name := "web-" + to.Host.Name
		to.sh("nsenter -t " + to.inspect(name, "{{.State.Pid}}") + " -n python3 -c '" + noOffload + "'")
		address := to.ip(name, "demo")
		if i == 1 {
			address = "[" + to.ip6(name, "demo") + "]"
		}
		to.docker("exec", "-d", name, "sh", "-c", fmt.Sprintf("rm -f /sum; socat -u %s SYSTEM:'cksum >/sum.new; mv /sum.new /sum'", listen(address)))
		var sent string
		from.eventually("100 MB to "+name, func() (err error) {
			sent, err = from.in("web-"+from.Host.Name, "bash", "-c", fmt.Sprintf(
				"head -c %dM /dev/urandom | tee >(cksum >/sent) | socat -u - TCP:%s:90 && sleep 0.2 && cat /sent", megabytes, address))
			return err
		})
		to.eventually("the checksum", func() error {
			got, err := to.in(name, "cat", "/sum")
			if err == nil && (got != sent || !strings.HasSuffix(got, fmt.Sprint(" ", megabytes<<20))) {
				err = fmt.Errorf("sent %q, received %q", sent, got)
			}
			return err
		})
	}
}

func listen(address string) string {
	if strings.HasPrefix(address, "[") {
		return "TCP6-LISTEN:90"
	}
	return "TCP4-LISTEN:90"
}

// largest: a packet of the exact MTU, in bytes, passes without fragments, one byte more
// does not.
func (c *cluster) largest(mtu int) {
	c.Helper()
	from, to := c.sites[0], c.sites[1]
	name := "web-" + to.Host.Name
	const icmp4, icmp6 = 28, 48
	for _, target := range []struct {
		addr string
		most int
	}{{to.ip(name, "demo"), mtu - icmp4}, {to.ip6(name, "demo"), mtu - icmp6}} {
		ping := func(size int) error {
			_, err := from.in("web-"+from.Host.Name, "ping", "-c1", "-W2", "-M", "do", "-s", fmt.Sprint(size), target.addr)
			return err
		}
		from.eventually(fmt.Sprintf("%d bytes to %s", target.most, target.addr), func() error { return ping(target.most) })
		if ping(target.most+1) == nil {
			c.Errorf("%d bytes to %s passed", target.most+1, target.addr)
		}
	}
}

// shouts: what the first host's container sends to all arrives on all hosts.
func (c *cluster) shouts() {
	c.Helper()
	from := c.sites[0]
	for _, s := range c.sites[1:] {
		s.docker("exec", "-d", "web-"+s.Host.Name, "sh", "-c", `rm -f /heard-*
socat -u UDP4-RECV:91,reuseaddr,broadcast OPEN:/heard-broadcast,creat,append &
socat -u UDP4-RECV:92,reuseaddr,ip-add-membership=239.1.1.1:eth0 OPEN:/heard-multicast,creat,append`)
	}
	for what, to := range map[string]string{"broadcast": "UDP4-DATAGRAM:10.60.0.255:91,broadcast", "multicast": "UDP4-DATAGRAM:239.1.1.1:92"} {
		c.comesTrue(what+" to be heard on all hosts", func() error {
			if _, err := from.in("web-"+from.Host.Name, "sh", "-c", "echo to all | socat -u - "+to); err != nil {
				return err
			}
			for _, s := range c.sites[1:] {
				if heard, err := s.in("web-"+s.Host.Name, "cat", "/heard-"+what); err != nil || !strings.Contains(heard, "to all") {
					return fmt.Errorf("%s: %q %w", s.Host.Name, heard, err)
				}
			}
			return nil
		})
	}
	c.all(func(s *site) error {
		_, err := s.in("web-"+s.Host.Name, "sh", "-c", "pkill -f 'UDP4-REC[V]:'; true")
		return err
	})
}

// quiet: what crosses the underlay while containers start and talk has the gateway
// neither as sender nor as target of ARP and ND, and no duplicate address detection.
func (c *cluster) quiet() {
	c.Helper()
	first, second := c.sites[0], c.sites[1]
	capture, err := second.Background("tcpdump", "-l", "-n", "-i", "eth0", "-T", "vxlan", "udp", "port", "8476")
	c.must(err)
	defer capture.Stop()
	c.comesTrue("the capture to run", func() error {
		if !strings.Contains(capture.Output(), "listening on") {
			return fmt.Errorf("tcpdump says %q", capture.Output())
		}
		return nil
	})
	for _, s := range c.sites {
		s.docker("run", "--rm", "--network", "demo", "weft/test:latest", "sh", "-c",
			"ping -c1 -W2 "+s.out.IPv4.String()+"; ping -c1 -W2 "+second.ip("web-"+second.Host.Name, "demo")+"; arping -c1 -w1 10.60.0.1; ping -c1 -W1 10.60.0.1")
	}
	first.pings(first.fromHost(), second.ip("web-"+second.Host.Name, "demo"))
	c.comesTrue("the capture to have seen the pings", func() error {
		if !strings.Contains(capture.Output(), "ICMP echo request") {
			return fmt.Errorf("tcpdump says %q", capture.Output())
		}
		return nil
	})
	gateway6 := first.inspect("web-"+first.Host.Name, `{{(index .NetworkSettings.Networks "demo").IPv6Gateway}}`)
	for line := range strings.Lines(capture.Output()) {
		arp := strings.Contains(line, "ARP")
		nd := strings.Contains(line, "neighbor solicitation") || strings.Contains(line, "neighbor advertisement")
		switch {
		case arp && (strings.Contains(line, " 10.60.0.1 ") || strings.Contains(line, " 10.60.0.1,")),
			nd && gateway6 != "" && (strings.Contains(line, " "+gateway6+" ") || strings.Contains(line, " "+gateway6+",")):
			c.Errorf("the gateway on the underlay: %s", line)
		case nd && strings.Contains(line, "IP6 :: >"):
			c.Errorf("duplicate address detection on the underlay: %s", line)
		}
	}
}

// overlayGone removes the network everywhere; no trace of it is left.
func (c *cluster) overlayGone() {
	c.Helper()
	for _, s := range c.sites {
		s.docker("rm", "-f", "web-"+s.Host.Name)
		s.docker("network", "rm", "demo")
	}
	for _, s := range c.sites {
		s.eventually("nothing of the network on "+s.Host.Name, func() error {
			if left := s.sh("ip -o link show group 2003133044; ip neigh show nud permanent; bridge fdb show | grep -e wx- -e wf- || true"); left != "" {
				return fmt.Errorf("left: %s", left)
			}
			return nil
		})
		if left := s.sh("nft list table inet weft | grep -e wf- -e wx- -e 10.60.0 -e fd60 || true; nft list tables bridge; nft list tables netdev"); left != "" {
			c.Errorf("%s: rules are left: %s", s.Host.Name, left)
		}
	}
	c.comesTrue("no key to be left", func() error {
		keys, err := c.store.Get(c.Context(), "")
		for key := range keys {
			for _, prefix := range []string{"/net/", "/name/", "/vni/", "/ep/", "/pools/", "/own/"} {
				if strings.Contains("/"+key, prefix) {
					err = fmt.Errorf("%s is left", key)
				}
			}
		}
		return err
	})
}
