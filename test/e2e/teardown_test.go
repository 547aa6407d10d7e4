package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/internal/admin"
)

// TestTeardown calls the driver out of order, twice, and with bodies that no
// engine sends.
func TestTeardown(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(s *site) {
		before := s.hostState()
		s.step("strangers", (*site).strangers)
		s.step("bodies", (*site).bodies)
		s.step("networks twice", (*site).networksTwice)
		s.step("endpoints twice", (*site).endpointsTwice)
		s.step("all at once", (*site).allAtOnce)
		s.step("nothing left", func(s *site) {
			s.eventually("the host as before", func() error { return same(before, s.hostState()) })
			s.forgotten()
			if log, err := s.PluginLog(s.Context()); err != nil || strings.Contains(log, "panic") {
				s.Errorf("the plugin's log tells of a panic (%v):\n%s", err, tail(log, 20))
			}
		})
	})
}

// forgotten makes sure that weft remembers no network and no endpoint.
func (s *site) forgotten() {
	s.Helper()
	for _, what := range []string{"networks", "endpoints", "ports", "ipam"} {
		if left := weftJSON[[]any](s, what); len(left) > 0 {
			s.Errorf("weft %s: %s", what, asText(left))
		}
	}
}

// made-up ids.
func netID(i int) string { return fmt.Sprintf("%012x%052x", 0xabc000+i, 1) }
func epID(i int) string  { return fmt.Sprintf("%012x%052x", 0xe000+i, 1) }

func endpointRef(net, ep int) object { return object{"NetworkID": netID(net), "EndpointID": epID(ep)} }

// strangers are things that weft never heard of.
func (s *site) strangers() {
	for range 2 {
		for _, m := range []string{"Leave", "DeleteEndpoint", "RevokeExternalConnectivity"} {
			s.ask("NetworkDriver."+m, endpointRef(1, 1))
		}
		s.ask("NetworkDriver.DeleteNetwork", object{"NetworkID": netID(1)})
		s.ask("NetworkDriver.FreeNetwork", object{"NetworkID": netID(1)})
		s.ask("IpamDriver.ReleasePool", object{"PoolID": "local/cluster/10.1.0.0/16/-/t999"})
		s.ask("IpamDriver.ReleaseAddress", object{"PoolID": "local/cluster/10.1.0.0/16/-/t999", "Address": "10.1.0.2"})
	}
	join := endpointRef(1, 1)
	join["SandboxKey"], join["Options"] = "/var/run/docker/netns/none", object{}
	s.askInVain("NetworkDriver.Join", join, "unknown network", "docker network rm")
	s.askInVain("NetworkDriver.ProgramExternalConnectivity", object{"NetworkID": netID(1), "EndpointID": epID(1), "Options": object{}}, "unknown network")
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(1, 1, "10.95.0.2/24"), "unknown network")
	s.askInVain("IpamDriver.RequestAddress", object{"PoolID": "local/cluster/10.1.0.0/16/-/t999", "Address": ""}, "pool")
	s.askInVain("NetworkDriver.NoSuchMethod", object{}, "does not implement")
	s.forgotten()
}

// bodies are what a broken client sends.
func (s *site) bodies() {
	methods := []string{"NetworkDriver.AllocateNetwork", "NetworkDriver.FreeNetwork", "NetworkDriver.GwAllocCheck",
		"NetworkDriver.CreateNetwork", "NetworkDriver.DeleteNetwork", "NetworkDriver.CreateEndpoint", "NetworkDriver.DeleteEndpoint",
		"NetworkDriver.EndpointOperInfo", "NetworkDriver.Join", "NetworkDriver.Leave", "NetworkDriver.ProgramExternalConnectivity",
		"NetworkDriver.RevokeExternalConnectivity", "IpamDriver.RequestPool", "IpamDriver.ReleasePool", "IpamDriver.RequestAddress",
		"IpamDriver.ReleaseAddress"}
	huge := []byte(`{"NetworkID":"` + strings.Repeat("x", 2<<20) + `"}`)
	driver := s.driver()
	for _, method := range methods {
		for name, body := range map[string][]byte{
			"empty": nil, "truncated": []byte(`{"NetworkID":"abc`), "oversized": huge, "no JSON": []byte("hello"), "null": []byte("null"),
			"a list": []byte(`[1]`), "wrong types": []byte(`{"NetworkID":1,"EndpointID":[],"PoolID":{},"Options":"x"}`),
			"two values": []byte(`{} {}`), "binary": {0, 1, 2, 0xff},
		} {
			status, answer, err := driver.Send(s.Context(), http.MethodPost, "/"+method, body)
			var failure struct{ Err string }
			if err == nil {
				err = json.Unmarshal([]byte(answer), &failure)
			}
			if err != nil || status < 400 || failure.Err == "" {
				s.Errorf("%s with a body that is %s: %d %.200s %v", method, name, status, answer, err)
			}
		}
	}
	s.ask("NetworkDriver.GetCapabilities", nil)
	s.forgotten()
}

func (s *site) networkDoc(id int, subnet, gateway string, options object) object {
	return object{
		"NetworkID": netID(id), "IPv6Data": []any{},
		"Options":  object{"com.docker.network.generic": options, "com.docker.network.enable_ipv6": false},
		"IPv4Data": []object{{"AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway}},
	}
}

func (s *site) endpointDoc(net, ep int, address string) object {
	doc := endpointRef(net, ep)
	doc["Interface"] = object{"Address": address, "AddressIPv6": "", "MacAddress": ""}
	doc["Options"] = object{"com.docker.network.portmap": []any{}}
	return doc
}

func (s *site) networksTwice() {
	before := s.hostState()
	native := object{"publish": "native"}
	// What is refused leaves nothing.
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.95.0.0/24", "10.95.0.1/24", object{"publsh": "native"}), "publsh", "publish")
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.95.0.0/24", "10.96.0.1/24", native), "10.96.0.1")
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.77.0.0/24", "10.77.0.99/24", native), "10.77.0.0/24", "eth0")
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.95.0.0/24", "10.95.0.1/24", object{"com.docker.network.bridge.name": "eth0"}), "eth0")
	if err := same(before, s.hostState()); err != nil {
		s.Errorf("a refused network left something: %v", err)
	}
	s.forgotten()

	doc := s.networkDoc(2, "10.95.0.0/24", "10.95.0.1/24", native)
	s.ask("NetworkDriver.CreateNetwork", doc)
	made := s.hostState()
	s.ask("NetworkDriver.CreateNetwork", doc)
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.95.0.0/24", "10.95.0.1/24", object{"publish": "docker"}), "already exists", "docker network rm")
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(2, "10.96.0.0/24", "10.96.0.1/24", native), "already exists")
	s.askInVain("NetworkDriver.CreateNetwork", s.networkDoc(3, "10.95.0.128/25", "10.95.0.129/25", native), "overlap", "10.95.0.0/24")
	if err := same(made, s.hostState()); err != nil {
		s.Errorf("a second creation changed something: %v", err)
	}
	if n := weftJSON[[]admin.Network](s, "networks"); len(n) != 1 || n[0].ID != netID(2) {
		s.Errorf("weft networks: %s", asText(n))
	}
}

func (s *site) joinDoc(net, ep int) object {
	doc := endpointRef(net, ep)
	doc["SandboxKey"], doc["Options"] = "/var/run/docker/netns/"+epID(ep)[:12], object{}
	return doc
}

func (s *site) programDoc(net, ep, port int) object {
	doc := endpointRef(net, ep)
	doc["Options"] = object{"com.docker.network.portmap": []object{
		{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": port, "HostPortEnd": port},
	}}
	return doc
}

// endpointsTwice goes on with the network that networksTwice left.
func (s *site) endpointsTwice() {
	s.askInVain("NetworkDriver.Join", s.joinDoc(2, 1), "unknown endpoint", "disconnect")
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 1, "10.96.0.2/24"), "10.96.0.2")
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 1, "10.95.0.1/24"), "10.95.0.1", "gateway")
	s.ask("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 1, "10.95.0.2/24"))
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 1, "10.95.0.2/24"), "already exists")
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 2, "10.95.0.2/24"), "10.95.0.2", "in use", epID(1)[:12])

	first := s.ask("NetworkDriver.Join", s.joinDoc(2, 1))
	if again := s.ask("NetworkDriver.Join", s.joinDoc(2, 1)); again != first {
		s.Errorf("the second Join answered %s, the first %s", again, first)
	}
	s.ask("NetworkDriver.ProgramExternalConnectivity", s.programDoc(2, 1, 8080))
	s.ask("NetworkDriver.ProgramExternalConnectivity", s.programDoc(2, 1, 8080))
	s.ask("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 2, "10.95.0.3/24"))
	s.ask("NetworkDriver.Join", s.joinDoc(2, 2))
	s.askInVain("NetworkDriver.ProgramExternalConnectivity", s.programDoc(2, 2, 8080), "8080", "already allocated", epID(1)[:12])
	if p := weftJSON[[]admin.Port](s, "ports"); len(p) != 2 || p[0].Endpoint != epID(1) || p[1].Endpoint != epID(1) {
		s.Errorf("weft ports should show 8080 of the first endpoint, IPv4 and IPv6: %s", asText(p))
	}
	// A port moves, and what it left is free.
	s.ask("NetworkDriver.ProgramExternalConnectivity", s.programDoc(2, 1, 8081))
	s.ask("NetworkDriver.ProgramExternalConnectivity", s.programDoc(2, 2, 8080))

	for range 2 {
		s.ask("NetworkDriver.RevokeExternalConnectivity", endpointRef(2, 1))
		s.ask("NetworkDriver.Leave", endpointRef(2, 1))
	}
	if again := s.ask("NetworkDriver.Join", s.joinDoc(2, 1)); again != first {
		s.Errorf("Join after Leave answered %s, before %s", again, first)
	}
	// Without Revoke and without Leave.
	for range 2 {
		s.ask("NetworkDriver.DeleteEndpoint", endpointRef(2, 1))
	}
	s.askInVain("NetworkDriver.Join", s.joinDoc(2, 1), "unknown endpoint")
	s.eventually("the links of the first endpoint to go", func() error {
		if links := s.sh("ip -o link | grep -c " + epID(1)[:12] + " || :"); links != "0" {
			return fmt.Errorf("%s are left", links)
		}
		return nil
	})
	// A network goes with all that it has, and what follows is success.
	s.ask("NetworkDriver.DeleteNetwork", object{"NetworkID": netID(2)})
	s.ask("NetworkDriver.Leave", endpointRef(2, 2))
	s.ask("NetworkDriver.DeleteEndpoint", endpointRef(2, 2))
	s.ask("NetworkDriver.DeleteNetwork", object{"NetworkID": netID(2)})
	s.askInVain("NetworkDriver.CreateEndpoint", s.endpointDoc(2, 3, "10.95.0.4/24"), "unknown network")
	s.forgotten()
}

// allAtOnce calls everything for one network and four endpoints concurrently.
// Errors are fine; what is left in the end is not.
func (s *site) allAtOnce() {
	driver := s.driver()
	call := func(method string, doc object) {
		_, _ = driver.Call(s.Context(), http.MethodPost, "/NetworkDriver."+method, doc) // any answer will do
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for round := range 4 {
				ep := (i + round) % 4
				call("CreateNetwork", s.networkDoc(5, "10.95.0.0/24", "10.95.0.1/24", object{"publish": "native"}))
				call("CreateEndpoint", s.endpointDoc(5, ep, fmt.Sprintf("10.95.0.%d/24", ep+2)))
				call("Join", s.joinDoc(5, ep))
				call("ProgramExternalConnectivity", s.programDoc(5, ep, 8090+i%2))
				switch i % 3 {
				case 0:
					call("Leave", endpointRef(5, ep))
				case 1:
					call("DeleteEndpoint", endpointRef(5, ep))
				case 2:
					call("DeleteNetwork", object{"NetworkID": netID(5)})
				}
			}
		})
	}
	wg.Wait()
	s.ask("NetworkDriver.DeleteNetwork", object{"NetworkID": netID(5)})
	s.ask("NetworkDriver.GetCapabilities", nil)
}
