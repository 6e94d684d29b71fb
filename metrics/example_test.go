package metrics_test

import (
	"fmt"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/mesher/mesherstream"
	"github.com/mesher/mesherstream/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func ExampleNewCollector() {
	app := fiber.New()
	m, err := mesherstream.NewManager(mesherstream.WithApp(app))
	if err != nil {
		panic(err)
	}
	app.Use(m.Handler())

	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(m))
	app.Get("/metrics", adaptor.HTTPHandler(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))

	families, err := registry.Gather()
	fmt.Println(families[0].GetName(), families[0].GetType(), err)
	// Output:
	// mesherstream_broadcasts_total COUNTER <nil>
}
