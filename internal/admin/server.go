package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/weft-net/weft/internal/cluster"
)

// Source answers the commands; cmd makes it from the daemon's parts.
type Source struct {
	Status    func(ctx context.Context) (Status, error)
	Networks  func(ctx context.Context) ([]Network, error)
	Endpoints func(ctx context.Context) ([]Endpoint, error)
	Ports     func(ctx context.Context) ([]Port, error)
	Pools     func(ctx context.Context) ([]Pool, error)
	// Hosts, RemoveHost, Store and Recover are about the cluster; on a host on its own
	// they are errors.
	Hosts      func(ctx context.Context) ([]Host, error)
	RemoveHost func(ctx context.Context, req HostRemoval) (cluster.HostView, error)
	Store      func(ctx context.Context) (StoreStatus, error)
	Recover    func(ctx context.Context) (StoreStatus, error)
	// ClusterNetworks, Names and RemoveNetwork are about the cluster, too.
	ClusterNetworks func(ctx context.Context) (ClusterNetworks, error)
	Names           func(ctx context.Context) ([]Name, error)
	RemoveNetwork   func(ctx context.Context, req NetworkRemoval) (ClusterNetwork, error)
	// Reset removes everything that weft made on this host.
	Reset func(ctx context.Context) error
}

// Listen makes dir/SocketName, for root alone. Who calls it before it says that it is
// ready has callers wait for an answer instead of being told that weft does not run.
func Listen(ctx context.Context, dir string) (net.Listener, error) {
	path := filepath.Join(dir, SocketName)
	// What is there was left by a process that was killed: the journal's lock
	// keeps a second daemon from coming this far.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers on l until ctx ends, and closes it.
func Serve(ctx context.Context, l net.Listener, src Source, log *slog.Logger) error {
	mux := http.NewServeMux()
	get(mux, "GET /status", src.Status, log)
	get(mux, "GET /networks", src.Networks, log)
	get(mux, "GET /endpoints", src.Endpoints, log)
	get(mux, "GET /ports", src.Ports, log)
	get(mux, "GET /ipam", src.Pools, log)
	get(mux, "GET /hosts", src.Hosts, log)
	post(mux, "POST /hosts/remove", src.RemoveHost, log)
	get(mux, "GET /cluster/networks", src.ClusterNetworks, log)
	post(mux, "POST /cluster/networks/remove", src.RemoveNetwork, log)
	get(mux, "GET /names", src.Names, log)
	get(mux, "GET /store", src.Store, log)
	get(mux, "POST /store/recover", src.Recover, log)
	get(mux, "POST /reset", func(ctx context.Context) (struct{}, error) { return struct{}{}, src.Reset(ctx) }, log)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = srv.Close() // Serve returns ErrServerClosed
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// get answers one route with JSON; an error is {"error": "…"} with status 500.
func get[T any](mux *http.ServeMux, route string, fn func(context.Context) (T, error), log *slog.Logger) {
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(context.WithoutCancel(r.Context()))
		answer(w, route, v, err, log)
	})
}

// maxQuestion bounds the body of a question.
const maxQuestion = 64 << 10

// post is get for a question with a body.
func post[Q, T any](mux *http.ServeMux, route string, fn func(context.Context, Q) (T, error), log *slog.Logger) {
	mux.HandleFunc(route, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		var v T
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQuestion)).Decode(&q)
		if err == nil {
			v, err = fn(context.WithoutCancel(r.Context()), q)
		}
		answer(w, route, v, err, log)
	})
}

func answer(w http.ResponseWriter, route string, doc any, err error, log *slog.Logger) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		doc = failure{Error: err.Error()}
	}
	if err := json.NewEncoder(w).Encode(doc); err != nil {
		log.Debug("admin answer", "route", route, "err", err)
	}
}

type failure struct {
	Error string `json:"error"`
}
