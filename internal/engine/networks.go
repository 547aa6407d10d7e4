package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// ErrRefused means that the engine answered, and did not do it; its own words follow.
var ErrRefused = errors.New("the engine refused")

// scopeSwarm is the scope of networks that belong to a Swarm.
const scopeSwarm = "swarm"

// Network is a network as the engine lists it: what `docker network create` was told,
// and the subnets that an IPAM driver chose.
type Network struct {
	ID         string `json:"Id"`
	Name       string
	Driver     string
	Scope      string
	Labels     map[string]string
	Options    map[string]string
	Internal   bool
	Attachable bool
	// EnableIPv4 is nil on engines before 28, which always have it on.
	EnableIPv4 *bool
	EnableIPv6 bool
	IPAM       IPAM
}

// IPAM is how a network's addresses are given.
type IPAM struct {
	Driver  string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
	Config  []IPAMConfig      `json:",omitempty"`
}

// IPAMConfig is one subnet of a network.
type IPAMConfig struct {
	Subnet       string            `json:",omitempty"`
	IPRange      string            `json:",omitempty"`
	Gateway      string            `json:",omitempty"`
	AuxAddresses map[string]string `json:"AuxiliaryAddresses,omitempty"`
}

// OfSwarm says that a network belongs to a Swarm, whose managers look after it.
func (n Network) OfSwarm() bool {
	const swarmID = 25
	return n.Scope == scopeSwarm || len(n.ID) == swarmID
}

// Networks asks for all networks.
func (e *Engine) Networks(ctx context.Context) ([]Network, error) {
	var out []Network
	err := e.get(ctx, "/networks", &out)
	return out, err
}

// Connected asks for the containers on a network that hold an endpoint of it, as
// [Engine.Disconnect] takes them. A network that is gone has none.
func (e *Engine) Connected(ctx context.Context, network string) ([]string, error) {
	var doc struct {
		Containers map[string]struct{ Name string }
	}
	err := e.do(ctx, http.MethodGet, "/networks/"+url.PathEscape(network), nil, &doc)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	var out []string
	for _, id := range slices.Sorted(maps.Keys(doc.Containers)) {
		// An endpoint whose container the engine has lost goes by the container's name.
		if strings.HasPrefix(id, "ep-") {
			id = doc.Containers[id].Name
		}
		out = append(out, id)
	}
	return out, err
}

// CreateNetwork creates a network as n says but for its id, and returns the id. A name
// that is taken is [ErrRefused].
func (e *Engine) CreateNetwork(ctx context.Context, n Network) (string, error) {
	body := struct {
		Name, Driver         string
		CheckDuplicate       bool // engines before 25 need it to refuse a name that is taken
		Internal, Attachable bool
		EnableIPv4           *bool `json:",omitempty"`
		EnableIPv6           bool
		Labels, Options      map[string]string
		IPAM                 IPAM
	}{n.Name, n.Driver, true, n.Internal, n.Attachable, n.EnableIPv4, n.EnableIPv6, n.Labels, n.Options, n.IPAM}
	var answer struct {
		ID string `json:"Id"`
	}
	err := e.do(ctx, http.MethodPost, "/networks/create", body, &answer)
	return answer.ID, err
}

// RemoveNetwork removes a network; one that is gone is success, one that containers are
// on [ErrRefused].
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error {
	err := e.do(ctx, http.MethodDelete, "/networks/"+url.PathEscape(id), nil, nil)
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// Disconnect takes a container off a network, whatever the container does; one that is
// not on it is success.
func (e *Engine) Disconnect(ctx context.Context, network, container string) error {
	body := struct {
		Container string
		Force     bool
	}{container, true}
	err := e.do(ctx, http.MethodPost, "/networks/"+url.PathEscape(network)+"/disconnect", body, nil)
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// PluginName asks for the name by which the engine knows a managed plugin, for instance
// "weft:latest".
func (e *Engine) PluginName(ctx context.Context, id string) (string, error) {
	var doc struct{ Name string }
	err := e.do(ctx, http.MethodGet, "/plugins/"+url.PathEscape(id)+"/json", nil, &doc)
	return doc.Name, err
}

// errGone means that what a request is about is not there.
var errGone = fmt.Errorf("%w: not found", ErrRefused)

// do sends one request. ctx says how long it may take; what the engine answers in
// words other than success is [ErrRefused].
func (e *Engine) do(ctx context.Context, method, path string, body, into any) (retErr error) {
	var reader io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	defer func() { retErr = errors.Join(retErr, resp.Body.Close()) }()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return refusal(resp)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("decode %s %s: %w", method, path, err)
	}
	return nil
}

// refusal is the engine's message.
func refusal(resp *http.Response) error {
	const most = 4 << 10
	text, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	var doc struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(text, &doc); err != nil || doc.Message == "" {
		doc.Message = resp.Status
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %s", errGone, doc.Message)
	}
	return fmt.Errorf("%w: %s", ErrRefused, doc.Message)
}
