package plugin_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weft-net/weft/plugin"
)

var pfx, adr = netip.MustParsePrefix, netip.MustParseAddr

func TestDecode(t *testing.T) {
	tests := []struct {
		name, body string
		into, want any
	}{
		{"network of 20.10", `{"NetworkID":"n","Options":{"com.docker.network.enable_ipv6":false,"com.docker.network.generic":{"mtu":1400,"x":true,"mode":"bridge"}},"IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"10.88.0.1/24","Pool":"10.88.0.0/24"}],"IPv6Data":[]}`,
			&plugin.CreateNetworkRequest{}, &plugin.CreateNetworkRequest{NetworkID: "n",
				Options:  plugin.NetworkOptions{Generic: map[string]string{"mtu": "1400", "x": "true", "mode": "bridge"}, EnableIPv4: true},
				IPv4Data: []plugin.IPAMData{{AddressSpace: "LocalDefault", Pool: pfx("10.88.0.0/24"), Gateway: pfx("10.88.0.1/24")}},
				IPv6Data: []plugin.IPAMData{}}},
		{"network of 29.7", `{"NetworkID":"n","Options":{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":true,"com.docker.network.internal":true,"new":[1]},"IPv4Data":[],"IPv6Data":[{"AddressSpace":"w","AuxAddresses":{"x":"fd77::9/64"},"Pool":"fd77::/64"}]}`,
			&plugin.CreateNetworkRequest{}, &plugin.CreateNetworkRequest{NetworkID: "n",
				Options:  plugin.NetworkOptions{Generic: map[string]string{}, EnableIPv6: true, Internal: true, Other: map[string]json.RawMessage{"new": json.RawMessage("[1]")}},
				IPv4Data: []plugin.IPAMData{},
				IPv6Data: []plugin.IPAMData{{AddressSpace: "w", Pool: pfx("fd77::/64"), AuxAddresses: map[string]netip.Prefix{"x": pfx("fd77::9/64")}}}}},
		{"swarm's IPv6 subnet in the wrong list", `{"NetworkID":"n","Options":{"a":"b"},"IPv4Data":[{"Pool":"fd00::/64"},{"Pool":"10.0.0.0/8"}],"IPv6Data":null}`,
			&plugin.AllocateNetworkRequest{}, &plugin.AllocateNetworkRequest{NetworkID: "n", Options: map[string]string{"a": "b"},
				IPv4Data: []plugin.IPAMData{{Pool: pfx("10.0.0.0/8")}}, IPv6Data: []plugin.IPAMData{{Pool: pfx("fd00::/64")}}}},
		{"endpoint", `{"NetworkID":"n","EndpointID":"e","Interface":{"Address":"10.0.0.2/24","AddressIPv6":"","MacAddress":"02:42:ac:14:00:02"},"Options":{"com.docker.network.endpoint.macaddress":"AkKsFAAC","com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[{"Proto":17,"IP":"","Port":81,"HostIP":"127.0.0.1","HostPort":80,"HostPortEnd":90}],"com.docker.network.endpoint.dnsservers":["1.1.1.1"],"opt":"v","com.docker.network.endpoint.ifname":"e0"}}`,
			&plugin.CreateEndpointRequest{}, &plugin.CreateEndpointRequest{NetworkID: "n", EndpointID: "e",
				Interface: plugin.EndpointInterface{Address: pfx("10.0.0.2/24"), MACAddress: net.HardwareAddr{2, 0x42, 0xac, 0x14, 0, 2}},
				Options: plugin.EndpointOptions{PortMap: []plugin.PortBinding{{Proto: 17, Port: 81, HostIP: adr("127.0.0.1"), HostPort: 80, HostPortEnd: 90}},
					ExposedPorts: []plugin.ExposedPort{}, MAC: net.HardwareAddr{2, 0x42, 0xac, 0x14, 0, 2}, DNSServers: []string{"1.1.1.1"},
					DriverOpts: map[string]string{"opt": "v", "com.docker.network.endpoint.ifname": "e0"}}}},
		{"join without ports", `{"NetworkID":"n","EndpointID":"e","SandboxKey":"/k","Options":null}`,
			&plugin.JoinRequest{}, &plugin.JoinRequest{NetworkID: "n", EndpointID: "e", SandboxKey: "/k"}},
		{"program", `{"NetworkID":"n","EndpointID":"e","Options":{"com.docker.network.driver.private.no_proxy_6to4":true,"com.docker.network.endpoint.exposedports":[{"Proto":6,"Port":80}]}}`,
			&plugin.ProgramRequest{}, &plugin.ProgramRequest{NetworkID: "n", EndpointID: "e",
				Options: plugin.SandboxOptions{NoProxy6To4: true, ExposedPorts: []plugin.ExposedPort{{Proto: 6, Port: 80}}}}},
		{"discovery", `{"DiscoveryType":1,"DiscoveryData":{"Address":"192.168.205.11","BindAddress":"","Self":true}}`,
			&plugin.DiscoverRequest{}, &plugin.DiscoverRequest{DiscoveryType: 1, Node: plugin.Node{Address: adr("192.168.205.11"), Self: true},
				DiscoveryData: json.RawMessage(`{"Address":"192.168.205.11","BindAddress":"","Self":true}`)}},
		{"pool", `{"AddressSpace":"w","Pool":"10.77.0.0/16","SubPool":"10.77.8.0/24","Options":{"k":"v"},"V6":false}`,
			&plugin.RequestPoolRequest{}, &plugin.RequestPoolRequest{AddressSpace: "w", Pool: pfx("10.77.0.0/16"), SubPool: pfx("10.77.8.0/24"), Options: map[string]string{"k": "v"}}},
		{"aux address", `{"PoolID":"p","Address":"10.77.8.1","Options":null}`,
			&plugin.RequestAddressRequest{}, &plugin.RequestAddressRequest{PoolID: "p", Address: adr("10.77.8.1")}},
		{"endpoint's address", `{"PoolID":"p","Address":"","Options":{"com.docker.network.endpoint.macaddress":"32:39:76:66:26:b5"}}`,
			&plugin.RequestAddressRequest{}, &plugin.RequestAddressRequest{PoolID: "p", MAC: net.HardwareAddr{0x32, 0x39, 0x76, 0x66, 0x26, 0xb5},
				Options: map[string]string{plugin.OptMAC: "32:39:76:66:26:b5"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := json.Unmarshal([]byte(tt.body), tt.into); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.into, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	network := func(options, v4, v6 string) string {
		return `{"NetworkID":"n","Options":{` + options + `},"IPv4Data":[` + v4 + `],"IPv6Data":[` + v6 + `]}`
	}
	ports := func(p string) string {
		return `{"NetworkID":"n","EndpointID":"e","SandboxKey":"/k","Options":{"com.docker.network.portmap":[{"Port":1},` + p + `]}}`
	}
	tests := []struct {
		name, body string
		into       any
		want       string
	}{
		{"bad pool", network("", `{"Pool":"10.0.0.0/33"}`, ""), &plugin.CreateNetworkRequest{}, `IPv4Data[0].Pool: "10.0.0.0/33" is not an IPv4 address with a prefix length`},
		{"IPv6 in the v4 list", network("", `{"Pool":"fd00::/8"}`, ""), &plugin.CreateNetworkRequest{}, `IPv4Data[0].Pool: "fd00::/8" is not an IPv4`},
		{"IPv4 in the v6 list", network("", "", `{"Pool":"fd00::/8"},{"Gateway":"10.0.0.1/8"}`), &plugin.CreateNetworkRequest{}, `IPv6Data[1].Gateway: "10.0.0.1/8" is not an IPv6`},
		{"mapped IPv4", network("", "", `{"Pool":"::ffff:10.0.0.0/104"}`), &plugin.CreateNetworkRequest{}, `IPv6Data[0].Pool: "::ffff`},
		{"aux without length", network("", `{"AuxAddresses":{"x":"10.0.0.1"}}`, ""), &plugin.CreateNetworkRequest{}, `IPv4Data[0].AuxAddresses["x"]: "10.0.0.1"`},
		{"list in generic", network(`"com.docker.network.generic":{"a":"b","mode":["x"]}`, "", ""), &plugin.CreateNetworkRequest{}, `Options["com.docker.network.generic"]["mode"]: "[\"x\"]" is not a string`},
		{"null in generic", network(`"com.docker.network.generic":{"mode":null}`, "", ""), &plugin.CreateNetworkRequest{}, `["mode"]: "null" is not a string`},
		{"text flag", network(`"com.docker.network.internal":"yes"`, "", ""), &plugin.CreateNetworkRequest{}, `Options["com.docker.network.internal"]: "string" is not true or false`},
		{"null in a list", network("", "null", ""), &plugin.CreateNetworkRequest{}, `IPv4Data[0]: "null" is not a list element`},
		{"port too large", ports(`{"HostPort":70000}`), &plugin.JoinRequest{}, `Options["com.docker.network.portmap"][1].HostPort: "70000" is not a number from 0 to 65535`},
		{"negative port", ports(`{"Port":-1}`), &plugin.JoinRequest{}, `[1].Port: "-1" is not a number`},
		{"protocol by name", ports(`{"Proto":"tcp"}`), &plugin.JoinRequest{}, `[1].Proto: "string" is not a number from 0 to 255`},
		{"backward range", ports(`{"HostPort":90,"HostPortEnd":80}`), &plugin.ProgramRequest{}, `[1].HostPortEnd: "80" is not a port from HostPort (90) on`},
		{"bad host address", ports(`{"HostIP":"localhost"}`), &plugin.ProgramRequest{}, `[1].HostIP: "localhost" is not an IP address`},
		{"no sandbox", `{"NetworkID":"n","EndpointID":"e"}`, &plugin.JoinRequest{}, `SandboxKey: missing`},
		{"MAC as text", `{"NetworkID":"n","EndpointID":"e","Options":{"com.docker.network.endpoint.macaddress":"02:42:ac:14:00:02"}}`, &plugin.CreateEndpointRequest{}, `is not a MAC address in base64`},
		{"bad MAC", `{"NetworkID":"n","EndpointID":"e","Interface":{"MacAddress":"02:42"}}`, &plugin.CreateEndpointRequest{}, `Interface.MacAddress: "02:42" is not a MAC address`},
		{"bad node", `{"DiscoveryType":1,"DiscoveryData":{"Address":"h1"}}`, &plugin.DiscoverRequest{}, `DiscoveryData.Address: "h1" is not an IP address`},
		{"IPv4 for V6", `{"Pool":"10.0.0.0/8","V6":true}`, &plugin.RequestPoolRequest{}, `Pool: "10.0.0.0/8" is not an IPv6`},
		{"range of another family", `{"Pool":"10.0.0.0/8","SubPool":"fd00::/64"}`, &plugin.RequestPoolRequest{}, `SubPool: "fd00::/64" is not an IPv4`},
		{"address with length", `{"PoolID":"p","Address":"10.0.0.1/8"}`, &plugin.RequestAddressRequest{}, `Address: "10.0.0.1/8" is not an IP address`},
		{"release nothing", `{"PoolID":"p","Address":""}`, &plugin.ReleaseAddressRequest{}, `Address: missing`},
		{"no pool", `{}`, &plugin.ReleasePoolRequest{}, `PoolID: missing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := json.Unmarshal([]byte(tt.body), tt.into)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ...%s...", err, tt.want)
			}
		})
	}
}

func TestRequestHelpers(t *testing.T) {
	r := plugin.RequestAddressRequest{Options: map[string]string{plugin.OptRequestAddressType: plugin.RequestAddressGateway, plugin.OptSerial: "true", plugin.OptEndpointName: "web"}}
	if !r.Gateway() || !r.Serial() || r.EndpointName() != "web" {
		t.Errorf("gateway %t, serial %t, name %q", r.Gateway(), r.Serial(), r.EndpointName())
	}
	if !(plugin.RequestPoolRequest{Pool: pfx("fd00::/64")}).IPv6() || (plugin.RequestPoolRequest{}).IPv6() {
		t.Error("IPv6 goes by V6 or by the pool")
	}
}

func TestEncode(t *testing.T) {
	tests := []struct {
		name string
		in   any
		want string
	}{
		{"join nothing", plugin.JoinResponse{}, `{}`},
		{"join", plugin.JoinResponse{InterfaceName: &plugin.InterfaceName{SrcName: "w1", DstPrefix: "eth"}, Gateway: adr("10.0.0.1"), GatewayIPv6: adr("fd00::1"),
			StaticRoutes: []plugin.StaticRoute{{Destination: pfx("::/1"), RouteType: plugin.RouteConnected}, {Destination: pfx("10.9.0.0/16"), NextHop: adr("10.0.0.9")}}, DisableGatewayService: true},
			`{"InterfaceName":{"SrcName":"w1","DstPrefix":"eth"},"Gateway":"10.0.0.1","GatewayIPv6":"fd00::1","StaticRoutes":[{"Destination":"::/1","RouteType":1},{"Destination":"10.9.0.0/16","RouteType":0,"NextHop":"10.0.0.9"}],"DisableGatewayService":true}`},
		{"endpoint nothing", plugin.CreateEndpointResponse{}, `{}`},
		{"endpoint MAC", plugin.CreateEndpointResponse{Interface: &plugin.EndpointInterface{MACAddress: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}, `{"Interface":{"MacAddress":"02:00:00:00:00:01"}}`},
		{"endpoint addresses", plugin.CreateEndpointResponse{Interface: &plugin.EndpointInterface{Address: pfx("10.0.0.2/24"), AddressIPv6: pfx("fd00::2/64")}}, `{"Interface":{"Address":"10.0.0.2/24","AddressIPv6":"fd00::2/64"}}`},
		{"address", plugin.RequestAddressResponse{Address: pfx("10.0.0.2/24")}, `{"Address":"10.0.0.2/24"}`},
		{"pool", plugin.RequestPoolResponse{PoolID: "p", Pool: pfx("10.0.0.0/24"), Data: map[string]string{plugin.DataGateway: "10.0.0.1/24"}}, `{"PoolID":"p","Pool":"10.0.0.0/24","Data":{"com.docker.network.gateway":"10.0.0.1/24"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.in)
			if err != nil || string(got) != tt.want {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
}
