//go:build bench

package overlay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/weft-net/weft/test/bench/board"
	"github.com/weft-net/weft/test/lab"
)

// object is a document of the plugin protocol.
type object map[string]any

// daemon is `weft serve` on a host without an engine: its endpoints are asked for as an
// engine would, without the memory and the time of as many containers.
type daemon struct {
	*testing.T
	host   *lab.Host
	api    lab.Caller
	number int
}

const (
	socket = "/run/docker/plugins/weft.sock"
	shared = "10.60.0.0/16"
)

func startDaemon(t *testing.T, h *lab.Host, number int, settings map[string]string) *daemon {
	t.Helper()
	d := &daemon{T: t, host: h, number: number}
	d.api = lab.Dial(func() (string, error) { return fmt.Sprintf("/proc/%d/root%s", h.PID(), socket), nil })
	if err := h.CopyIn(t.Context(), "../../../build/weft-"+runtime.GOARCH, "/usr/local/bin/weft"); err != nil {
		t.Fatalf("%v: build it with `make build`", err)
	}
	h.MustRun(t, "mkdir", "-p", filepath.Dir(socket), "/var/lib/weft")
	env := []string{"env"}
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	process, err := h.Background(append(env, "weft", "serve")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if log := process.Stop(); t.Failed() {
			t.Logf("%s: log of weft:\n%s", h.Name, log[max(0, len(log)-2000):])
		}
	})
	return d
}

func (d *daemon) call(ctx context.Context, method string, doc object, answer any) error {
	out, err := d.api.Call(ctx, http.MethodPost, "/"+method, doc)
	if err != nil {
		return fmt.Errorf("%s: %w", d.host.Name, err)
	}
	return json.Unmarshal([]byte(out), answer)
}

// id is one that an engine would have made.
func (d *daemon) id(i int) string { return fmt.Sprintf("%06x%06x%052x", d.number, i, 1) }

// network makes the overlay as soon as the host is a member of the cluster. It returns
// the pool.
func (d *daemon) network() string {
	d.Helper()
	var pool struct{ PoolID string }
	var gateway struct{ Address string }
	err := lab.Until(d.Context(), "weft on "+d.host.Name, func(ctx context.Context) error {
		err := d.call(ctx, "IpamDriver.RequestPool", object{"AddressSpace": "weft-local", "Pool": shared}, &pool)
		if err != nil {
			return err
		}
		ask := object{"PoolID": pool.PoolID, "Options": object{"RequestAddressType": "com.docker.network.gateway"}}
		err = d.call(ctx, "IpamDriver.RequestAddress", ask, &gateway)
		if err == nil {
			err = d.call(ctx, "NetworkDriver.CreateNetwork", object{
				"NetworkID": d.id(0), "IPv6Data": []any{}, "IPv4Data": []object{{"AddressSpace": "weft-local", "Pool": shared, "Gateway": gateway.Address}},
				"Options": object{"com.docker.network.generic": object{"mode": "overlay", "net": "demo"}, "com.docker.network.enable_ipv6": false},
			}, &struct{}{})
		}
		if err != nil {
			return errors.Join(err, d.call(ctx, "IpamDriver.ReleasePool", object{"PoolID": pool.PoolID}, &struct{}{}))
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	return pool.PoolID
}

// endpoint starts one as the engine does for a container.
func (d *daemon) endpoint(pool string, i int) error {
	ctx := d.Context()
	var got struct{ Address string }
	if err := d.call(ctx, "IpamDriver.RequestAddress", object{"PoolID": pool, "Address": "", "Options": object{}}, &got); err != nil {
		return err
	}
	ref := object{"NetworkID": d.id(0), "EndpointID": d.id(i), "Options": object{}}
	create := object{"NetworkID": d.id(0), "EndpointID": d.id(i), "Options": object{},
		"Interface": object{"Address": got.Address, "AddressIPv6": "", "MacAddress": ""}}
	if err := d.call(ctx, "NetworkDriver.CreateEndpoint", create, &struct{}{}); err != nil {
		return err
	}
	ref["SandboxKey"] = "/var/run/docker/netns/" + d.id(i)[:12]
	return d.call(ctx, "NetworkDriver.Join", ref, &struct{}{})
}

// rss is what the process has in memory now, and what it had at most, in MB.
func (d *daemon) rss() (now, peak float64) {
	d.Helper()
	status := d.host.MustRun(d, "sh", "-c", "cat /proc/$(pgrep -x weft)/status")
	for line := range strings.Lines(status) {
		_, _ = fmt.Sscanf(line, "VmRSS: %f kB", &now) // other lines do not match
		_, _ = fmt.Sscanf(line, "VmHWM: %f kB", &peak)
	}
	const mega = 1024
	if now == 0 {
		d.Fatalf("no memory in %s", status)
	}
	return now / mega, peak / mega
}

// TestMemory: three hosts with 200 endpoints each on one overlay.
func TestMemory(t *testing.T) {
	const each, workers, most = 200, 8, 60
	b := &board.Board{}
	defer b.Print(t)
	l := lab.New(t, lab.Config{Hosts: []lab.HostConfig{{Name: "h1", NoEngine: true}, {Name: "h2", NoEngine: true}, {Name: "h3", NoEngine: true}, {Name: "s1", NoEngine: true}}})
	store, err := lab.StartStore(t.Context(), lab.StoreConfig{Members: l.Hosts[3:]})
	if err != nil {
		t.Fatal(err)
	}
	var daemons []*daemon
	for i, h := range l.Hosts[:3] {
		daemons = append(daemons, startDaemon(t, h, i+1, store.Settings()))
	}
	var work sync.WaitGroup
	for _, d := range daemons {
		pool := d.network()
		for worker := range workers {
			work.Go(func() {
				for i := worker; i < each; i += workers {
					if err := d.endpoint(pool, i+1); err != nil {
						t.Errorf("endpoint %d: %v", i, err)
					}
				}
			})
		}
	}
	work.Wait()
	for _, d := range daemons {
		// Neighbours: all containers, this host's too, and the two other hosts.
		want := fmt.Sprint(len(daemons)*each + len(daemons) - 1)
		err := lab.Until(t.Context(), "all entries", func(ctx context.Context) error {
			got, err := d.host.Run(ctx, "sh", "-c", "ip neigh show nud permanent | grep -c ' dev wf-'")
			if err == nil && got != want {
				err = fmt.Errorf("%s: %s of %s neighbours", d.host.Name, got, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range daemons {
		now, peak := d.rss()
		b.Add(now > most, fmt.Sprintf("RSS of weft, %s of %d hosts with %d endpoints each", d.host.Name, len(daemons), each), "≤ 60 MB", "%.1f MB (at most so far %.1f MB)", now, peak)
	}
}
