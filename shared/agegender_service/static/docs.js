// Start Swagger UI if it could be loaded; otherwise the page links to openapi.json.
if (window.SwaggerUIBundle) SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui" });
