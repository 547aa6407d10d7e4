// Command least is the least that a driver can be: a pair for each container, in a bridge
// without a way out, for the engine to move. What a network of it adds to `docker run` is
// the engine's own part, which no driver with attach=docker can save.
//
//	least SOCKET GATEWAY
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/weft-net/weft/internal/kernel"
)

const bridge = "least0"

// mtu is that of weft's overlays here.
const mtu = 1450

func main() {
	const words = 3
	if len(os.Args) != words {
		fmt.Fprintln(os.Stderr, "usage: least SOCKET GATEWAY")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "least:", err)
		os.Exit(1)
	}
}

func serve(socket, gateway string) error {
	k, err := kernel.Open(kernel.Config{})
	if err != nil {
		return err
	}
	if _, err := k.EnsureBridge(kernel.Bridge{Name: bridge, MTU: mtu}); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	later := kernel.NewLater(k, 0, nil)
	go func() { _ = later.Run(context.Background()) }() // it ends with the process
	//nolint:gosec // the engine is the only client, and a bench needs no timeouts
	return http.Serve(l, handler(k, later, gateway))
}

type request struct{ EndpointID string }

func handler(k *kernel.Host, later *kernel.Later, gateway string) http.Handler {
	none := func(request) (any, error) { return struct{}{}, nil }
	calls := map[string]func(request) (any, error){
		"/Plugin.Activate": func(request) (any, error) { return map[string][]string{"Implements": {"NetworkDriver"}}, nil },
		"/NetworkDriver.GetCapabilities": func(request) (any, error) {
			return map[string]string{"Scope": "local", "ConnectivityScope": "local"}, nil
		},
		"/NetworkDriver.Join": func(r request) (any, error) {
			host, peer := names(r.EndpointID)
			return map[string]any{"InterfaceName": map[string]string{"SrcName": peer, "DstPrefix": "eth"}, "Gateway": gateway},
				k.AddVeth(kernel.Veth{Host: host, Peer: peer, Bridge: bridge, MTU: mtu})
		},
		"/NetworkDriver.DeleteEndpoint": func(r request) (any, error) {
			host, _ := names(r.EndpointID)
			return struct{}{}, later.Delete(host)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := calls[r.URL.Path]
		if call == nil {
			call = none
		}
		var req request
		_ = json.NewDecoder(r.Body).Decode(&req) // some calls have no body
		answer, err := call(req)
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			answer = map[string]string{"Err": err.Error()}
		}
		_ = json.NewEncoder(w).Encode(answer) // the engine hung up
	})
}

// names of the two ends of an endpoint's pair.
func names(endpoint string) (host, peer string) {
	const length = 10
	short := endpoint[:min(length, len(endpoint))]
	return "lv-" + short, "lp-" + short
}
