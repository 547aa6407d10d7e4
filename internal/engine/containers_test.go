package engine_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weft-net/weft/internal/engine"
)

func TestContainers(t *testing.T) {
	e := serve(t, func(request, _ string) (int, string) {
		switch request {
		case "GET /containers/json":
			return http.StatusOK, `[{"Id":"c1"},{"Id":"c2"}]`
		case "GET /containers/c1/json":
			return http.StatusOK, `{"Id":"c1","Name":"/web","State":{"Running":true},"Config":{"Hostname":"h"},"NetworkSettings":{"SandboxKey":"/var/run/docker/netns/1",
				"Networks":{"two":{"NetworkID":"n2","EndpointID":"e2","Aliases":["db"],"Links":["redis:cache"],"IPAddress":"10.0.0.2","GlobalIPv6Address":"fd00::2","Gateway":"10.0.0.1","IPv6Gateway":"fd00::1","GwPriority":7},
				"one":{"NetworkID":"n1","EndpointID":"e1","Aliases":null,"IPAddress":"10.1.0.2"},"stopped":{"NetworkID":"n3","EndpointID":""}}}}`
		case "GET /containers/gone/json":
			return http.StatusNotFound, `{"message":"No such container: gone"}`
		}
		return http.StatusInternalServerError, `{"message":"no"}`
	})
	if ids, err := e.Running(t.Context()); err != nil || !slices.Equal(ids, []string{"c1", "c2"}) {
		t.Errorf("%v, %v", ids, err)
	}
	c, err := e.Container(t.Context(), "c1")
	want := `{c1 web h /var/run/docker/netns/1 true [{n1 one e1 [] [] [10.1.0.2] 0 0} {n2 two e2 [db] [redis:cache] [10.0.0.2 fd00::2] 7 2}]}`
	if got := fmt.Sprint(c); err != nil || got != want {
		t.Errorf("%s, %v instead of\n%s", got, err, want)
	}
	if _, err := e.Container(t.Context(), "gone"); !errors.Is(err, engine.ErrNoContainer) {
		t.Errorf("a container that is gone: %v", err)
	}
	if _, err := e.Container(t.Context(), "c9"); err == nil || errors.Is(err, engine.ErrNoContainer) {
		t.Errorf("an engine that fails: %v", err)
	}
}

// TestEvents: what happens to containers and networks is passed on, by whom it concerns.
func TestEvents(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	d := start(t, socket, info("28.5.2", false))
	heard := make(chan string, 100)
	e := engine.New(engine.Config{Socket: socket, Retry: 10 * time.Millisecond,
		OnNetworks: func() { heard <- "networks" }, OnContainer: func(id string) { heard <- "container " + id }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = e.Run(ctx) }() // ends with the test
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case got := <-heard:
				if got != w {
					t.Fatalf("heard %q instead of %q", got, w)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("never heard %q", w)
			}
		}
	}
	expect("networks", "container ")
	for line, want := range map[string]string{
		`{"Type":"container","Action":"start","Actor":{"ID":"c1"}}`:                                    "container c1",
		`{"Type":"container","Action":"die","Actor":{"ID":"c2"}}`:                                      "container c2",
		`{"Type":"container","Action":"rename","Actor":{"ID":"c3"}}`:                                   "container c3",
		`{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":"c4"}}}`:    "container c4",
		`{"Type":"network","Action":"disconnect","Actor":{"ID":"n1","Attributes":{"container":"c5"}}}`: "container c5",
		`{"Type":"network","Action":"destroy","Actor":{"ID":"n1"}}`:                                    "networks",
	} {
		d.events <- `{"Type":"container","Action":"create","Actor":{"ID":"quiet"}}`
		d.events <- line
		expect(want)
	}
}
