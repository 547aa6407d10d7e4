package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/engine"
)

// serve answers requests of the form "GET /networks" with a status and a text.
func serve(t *testing.T, answer func(request, body string) (int, string)) *engine.Engine {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body) // a request without a body
		status, text := answer(r.Method+" "+r.URL.Path, string(body))
		w.WriteHeader(status)
		fmt.Fprint(w, text)
	})}
	go func() { _ = srv.Serve(l) }() // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	return engine.New(engine.Config{Socket: socket})
}

func TestNetworks(t *testing.T) {
	e := serve(t, func(request, _ string) (int, string) {
		if request != "GET /networks" {
			return http.StatusNotFound, ""
		}
		return http.StatusOK, `[{"Id":"1","Name":"a","Driver":"weft:latest","Scope":"local","EnableIPv6":true,"Labels":{"l":"v"},"Options":{"mode":"overlay"},
			"IPAM":{"Driver":"weft:latest","Options":{"domain":"x"},"Config":[{"Subnet":"10.0.0.0/24","IPRange":"10.0.0.0/25","Gateway":"10.0.0.1","AuxiliaryAddresses":{"r":"10.0.0.2"}}]}},
			{"Id":"2","Name":"b","Scope":"swarm","EnableIPv4":false,"IPAM":{"Config":null},"Labels":null},{"Id":"abcdefghijklmnopqrstuvwxy","Scope":"local"}]`
	})
	all, err := e.Networks(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	want := `{1 a weft:latest local map[l:v] map[mode:overlay] false false <nil> true {weft:latest map[domain:x] [{10.0.0.0/24 10.0.0.0/25 10.0.0.1 map[r:10.0.0.2]}]}}`
	if got := fmt.Sprint(all[0]); got != want {
		t.Errorf("%s instead of\n%s", got, want)
	}
	if all[0].OfSwarm() || !all[1].OfSwarm() || !all[2].OfSwarm() || all[1].EnableIPv4 == nil || *all[1].EnableIPv4 {
		t.Errorf("%+v", all)
	}
}

func TestChanges(t *testing.T) {
	var asked []string
	e := serve(t, func(request, body string) (int, string) {
		asked = append(asked, request+" "+body)
		switch request {
		case "POST /networks/create":
			if strings.Contains(body, `"taken"`) {
				return http.StatusConflict, `{"message":"network with name taken already exists"}`
			}
			return http.StatusCreated, `{"Id":"n1","Warning":""}`
		case "GET /networks/n1":
			return http.StatusOK, `{"Containers":{"c2":{"Name":"two"},"c1":{"Name":"one"},"ep-77":{"Name":"lost"}}}`
		case "DELETE /networks/busy":
			return http.StatusForbidden, `{"message":"network busy has active endpoints"}`
		case "DELETE /networks/n1", "POST /networks/n1/disconnect":
			return http.StatusNoContent, ""
		case "GET /plugins/p1/json":
			return http.StatusOK, `{"Id":"p1","Name":"weft:latest"}`
		case "POST /networks/odd/disconnect":
			return http.StatusInternalServerError, "no JSON"
		}
		return http.StatusNotFound, `{"message":"no such thing"}`
	})
	off := false
	id, err := e.CreateNetwork(t.Context(), engine.Network{ID: "ignored", Name: "a", Driver: "d", Scope: "ignored", EnableIPv4: &off, Labels: map[string]string{"l": "v"}})
	if err != nil || id != "n1" {
		t.Error(id, err)
	}
	want := `{"Name":"a","Driver":"d","CheckDuplicate":true,"Internal":false,"Attachable":false,"EnableIPv4":false,"EnableIPv6":false,"Labels":{"l":"v"},"Options":null,"IPAM":{}}`
	if got := strings.TrimPrefix(asked[0], "POST /networks/create "); got != want {
		t.Errorf("%s instead of\n%s", got, want)
	}
	if _, err := e.CreateNetwork(t.Context(), engine.Network{Name: "taken"}); !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), "already exists") {
		t.Error(err)
	}
	if list, err := e.Connected(t.Context(), "n1"); err != nil || !slices.Equal(list, []string{"c1", "c2", "lost"}) {
		t.Error(list, err)
	}
	if list, err := e.Connected(t.Context(), "gone"); err != nil || len(list) > 0 {
		t.Error(list, err)
	}
	if err := errors.Join(e.RemoveNetwork(t.Context(), "n1"), e.RemoveNetwork(t.Context(), "gone"),
		e.Disconnect(t.Context(), "n1", "c1"), e.Disconnect(t.Context(), "gone", "c1")); err != nil {
		t.Error(err)
	}
	if !slices.Contains(asked, `POST /networks/n1/disconnect {"Container":"c1","Force":true}`) {
		t.Errorf("%q", asked)
	}
	if err := e.RemoveNetwork(t.Context(), "busy"); !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), "active endpoints") {
		t.Error(err)
	}
	if err := e.Disconnect(t.Context(), "odd", "c"); !errors.Is(err, engine.ErrRefused) || !strings.Contains(err.Error(), "500") {
		t.Error(err)
	}
	if name, err := e.PluginName(t.Context(), "p1"); err != nil || name != "weft:latest" {
		t.Error(name, err)
	}
	nobody := engine.New(engine.Config{Socket: filepath.Join(t.TempDir(), "s")})
	if err := nobody.RemoveNetwork(t.Context(), "n1"); !errors.Is(err, engine.ErrUnknown) {
		t.Error(err)
	}
}

// TestNetworkEvents: the callback comes with the connection and with each event.
func TestNetworkEvents(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	var calls atomic.Int32
	e := engine.New(engine.Config{Socket: socket, Retry: 10 * time.Millisecond, OnNetworks: func() { calls.Add(1) }})
	d := start(t, socket, info("28.5.2", false))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	until(t, "the connection", func() bool { return calls.Load() == 1 })
	d.events <- `{"Type":"network","Action":"create","Actor":{"ID":"n1"}}`
	until(t, "the event", func() bool { return calls.Load() == 2 })
	d.events <- `{"Type":"daemon","Action":"reload"}`
	d.events <- `{"Type":"network","Action":"destroy"}`
	until(t, "the third event", func() bool { return calls.Load() == 3 })
	_ = d.srv.Close()
	start(t, socket, info("28.5.2", false))
	until(t, "the next connection", func() bool { return calls.Load() == 4 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
