package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/weft-net/weft/internal/cluster"
)

// ErrNotRunning means that no daemon answers on this host.
var ErrNotRunning = errors.New("weft does not run on this host: enable it with `docker plugin enable weft:latest` or start weft.service")

// A Client talks to the daemon of this host.
type Client struct {
	http   *http.Client
	socket string
}

// places are where daemons put their socket: a managed plugin in a directory
// of its own, named by its id; a service beside the legacy sockets.
func places() []string {
	return []string{"/run/docker/plugins/*/" + SocketName, "/run/docker/plugins/" + SocketName}
}

// Dial finds a daemon that answers. A socket path, if not empty, is the only
// one tried.
func Dial(ctx context.Context, socket string) (*Client, error) {
	if socket == "" && os.Geteuid() != 0 {
		return nil, errors.New("weft answers to root only: run it as root")
	}
	candidates := []string{socket}
	if socket == "" {
		candidates = nil
		for _, pattern := range places() {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return nil, fmt.Errorf("find the daemon: %w", err)
			}
			candidates = append(candidates, found...)
		}
	}
	var last error
	for _, path := range candidates {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", path)
		if err != nil {
			last = err
			continue
		}
		if err := conn.Close(); err != nil {
			last = err
			continue
		}
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) }
		return &Client{socket: path, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
	}
	if last != nil {
		return nil, fmt.Errorf("%w (%w)", ErrNotRunning, last)
	}
	return nil, ErrNotRunning
}

// Status asks for the daemon at a glance.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/status")
}

// Networks lists the networks, oldest first.
func (c *Client) Networks(ctx context.Context) ([]Network, error) {
	return call[[]Network](ctx, c, http.MethodGet, "/networks")
}

// Endpoints lists the endpoints, oldest first.
func (c *Client) Endpoints(ctx context.Context) ([]Endpoint, error) {
	return call[[]Endpoint](ctx, c, http.MethodGet, "/endpoints")
}

// Ports lists the ports that weft publishes itself.
func (c *Client) Ports(ctx context.Context) ([]Port, error) {
	return call[[]Port](ctx, c, http.MethodGet, "/ports")
}

// Pools lists the address pools.
func (c *Client) Pools(ctx context.Context) ([]Pool, error) {
	return call[[]Pool](ctx, c, http.MethodGet, "/ipam")
}

// Reset removes everything that weft made on this host.
func (c *Client) Reset(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodPost, "/reset")
	return err
}

// Hosts lists the hosts of the cluster.
func (c *Client) Hosts(ctx context.Context) ([]Host, error) {
	return call[[]Host](ctx, c, http.MethodGet, "/hosts")
}

// RemoveHost removes a host from the cluster.
func (c *Client) RemoveHost(ctx context.Context, req HostRemoval) (cluster.HostView, error) {
	return ask[cluster.HostView](ctx, c, "/hosts/remove", req)
}

// ClusterNetworks lists the networks of the cluster by name.
func (c *Client) ClusterNetworks(ctx context.Context) (ClusterNetworks, error) {
	return call[ClusterNetworks](ctx, c, http.MethodGet, "/cluster/networks")
}

// RemoveNetwork removes a network from all hosts.
func (c *Client) RemoveNetwork(ctx context.Context, req NetworkRemoval) (ClusterNetwork, error) {
	return ask[ClusterNetwork](ctx, c, "/cluster/networks/remove", req)
}

// Store asks for the store as this host sees it.
func (c *Client) Store(ctx context.Context) (StoreStatus, error) {
	return call[StoreStatus](ctx, c, http.MethodGet, "/store")
}

// RecoverStore lets the cluster go on after its store was restored or wiped.
func (c *Client) RecoverStore(ctx context.Context) (StoreStatus, error) {
	return call[StoreStatus](ctx, c, http.MethodPost, "/store/recover")
}

func call[T any](ctx context.Context, c *Client, method, path string) (T, error) {
	return send[T](ctx, c, method, path, http.NoBody)
}

// ask is call for a question with a body.
func ask[T any](ctx context.Context, c *Client, path string, req any) (T, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return *new(T), err
	}
	return send[T](ctx, c, http.MethodPost, path, bytes.NewReader(body))
}

func send[T any](ctx context.Context, c *Client, method, path string, body io.Reader) (out T, retErr error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://weft"+path, body)
	if err != nil {
		return out, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, fmt.Errorf("ask %s: %w", c.socket, err)
	}
	defer func() { retErr = errors.Join(retErr, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, fmt.Errorf("ask %s: %w", c.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if err := json.Unmarshal(text, &f); err != nil || f.Error == "" {
			return out, fmt.Errorf("ask %s%s: %s", c.socket, path, resp.Status)
		}
		return out, errors.New(f.Error)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("ask %s%s: %w", c.socket, path, err)
	}
	return out, nil
}

// Names lists what the cluster's networks resolve to, by network and name.
func (c *Client) Names(ctx context.Context) ([]Name, error) {
	return call[[]Name](ctx, c, http.MethodGet, "/names")
}
