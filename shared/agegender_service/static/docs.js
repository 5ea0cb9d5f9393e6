// Starts Swagger UI, where it could be loaded; the page links to openapi.json otherwise.
if (window.SwaggerUIBundle) SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui" });
